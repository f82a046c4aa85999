// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/urfave/cli/v3"
)

// checkTimeout bounds each group of checks; checkGrace is how much longer is waited for
// one that does not look at its context.
const (
	checkTimeout = 5 * time.Second
	checkGrace   = time.Second
)

// The results of a check.
const (
	statusOK     = "ok"
	statusWarn   = "warn"
	statusFail   = "fail"
	statusUnseen = "unseen" // could not be looked at, as the finding says
)

// finding is what a check has found.
type finding struct {
	Check  string `json:"check"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Do     string `json:"do,omitempty"` // against it
}

func ok(check, format string, args ...any) finding {
	return finding{Check: check, Status: statusOK, Detail: fmt.Sprintf(format, args...)}
}

// bad is a finding that asks for something to be done.
func bad(status, check, do, format string, args ...any) finding {
	return finding{Check: check, Status: status, Detail: fmt.Sprintf(format, args...), Do: do}
}

// unseen is a finding where err kept the check from seeing anything.
func unseen(check string, err error) finding {
	do := ""
	if errors.Is(err, fs.ErrPermission) {
		do = "run as root"
	}
	return bad(statusUnseen, check, do, "%v", err)
}

// report is all that doctor says.
type report struct {
	OK        bool              `json:"ok"` // nothing failed
	Checks    []finding         `json:"checks"`
	Layers    []layerReport     `json:"layers"`
	Decisions []decisionsReport `json:"decisions"` // of the daemon since it started, if its metrics can be had
}

// doctor looks at a node, and changes nothing.
type doctor struct {
	env         *env
	root        string // of the daemon, without symbolic links
	proc        string // where the kernel's tables are
	snapshotter string // the daemon's socket
	config      string // the daemon's configuration file
}

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "say what is wrong with lazy loading on this node",
		Description: "Looks at the kernel, containerd and its configuration, the snapshotter at --root, its mount, what holds\n" +
			"that, its layers, and the containers that use them. Changes nothing, asks nothing of a file system that\n" +
			"may not answer, and needs no running daemon. What could not be looked at is unseen: run it as root.\n\n" +
			"Prints a line for each check: ok, warn, fail or unseen, what was found, and what to do. Fails if there is a fail.",
		Flags: []cli.Flag{
			&cli.StringFlag{
				Name: "snapshotter-address", Value: "/run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock",
				Usage: "`socket` of the snapshotter", Sources: cli.EnvVars("SOCI_SNAPSHOTTER_ADDRESS"),
			},
			&cli.StringFlag{
				Name: "config", Value: "/etc/soci-snapshotter-grpc/config.toml",
				Usage: "configuration `file` of the snapshotter, which says where its metrics are", Sources: cli.EnvVars("SOCI_SNAPSHOTTER_CONFIG"),
			},
			&cli.BoolFlag{Name: "layers", Usage: "print a line for each lazy layer, too"},
			&cli.BoolFlag{Name: "json", Usage: "print one JSON object"},
		},
		Action: action(diagnose),
	}
}

func diagnose(ctx context.Context, e *env, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return fmt.Errorf("unexpected argument %q", cmd.Args().First())
	}
	root, err := filepath.Abs(e.root)
	if err != nil {
		return fmt.Errorf("root %s: %w", e.root, err)
	}
	if to, err := filepath.EvalSymlinks(root); err == nil {
		root = to // as the mount table has it
	}
	d := &doctor{
		env: e, root: root, proc: "/proc",
		snapshotter: strings.TrimPrefix(cmd.String("snapshotter-address"), "unix://"),
		config:      cmd.String("config"),
	}
	r := d.report(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	if cmd.Bool("json") {
		enc := json.NewEncoder(e.out)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		err = r.print(e, cmd.Bool("layers"))
	}
	if err != nil {
		return err
	}
	if n := r.failed(); n > 0 {
		return fmt.Errorf("doctor: %d of %d checks failed", n, len(r.Checks))
	}
	return nil
}

// report does all checks, each group by itself: one that hangs keeps no other from being told.
func (d *doctor) report(ctx context.Context) report {
	var r report
	groups := []struct {
		name string
		look func(context.Context) report
	}{
		{"kernel", checks(d.node)},
		{"root", checks(d.disk)},
		{"containerd", checks(d.containerd)},
		{"containerd-config", checks(d.containerdConfig)},
		{"snapshotter", checks(d.service)},
		{"layers", d.layers},
		{"decisions", d.decisions},
	}
	results := make([]chan report, len(groups))
	for i, g := range groups {
		results[i] = make(chan report, 1)
		go func() {
			ctx, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			results[i] <- g.look(ctx)
		}()
	}
	// What the kernel does not let go of ends with the process.
	late, cancel := context.WithTimeout(ctx, checkTimeout+checkGrace)
	defer cancel()
	for i, g := range groups {
		var got report
		select {
		case got = <-results[i]:
		case <-late.Done():
			got.Checks = []finding{bad(statusFail, g.name, "look for a file system that does not answer", "no answer after %v", checkTimeout+checkGrace)}
		}
		r.Checks = append(r.Checks, got.Checks...)
		r.Layers = append(r.Layers, got.Layers...)
		r.Decisions = append(r.Decisions, got.Decisions...)
	}
	r.OK = r.failed() == 0
	return r
}

// checks makes a group of a function that has nothing but findings.
func checks(look func(context.Context) []finding) func(context.Context) report {
	return func(ctx context.Context) report { return report{Checks: look(ctx)} }
}

func (r *report) failed() int {
	n := 0
	for _, f := range r.Checks {
		if f.Status == statusFail {
			n++
		}
	}
	return n
}

// print writes a line for each check, and with layers for each layer.
func (r *report) print(e *env, layers bool) error {
	for _, f := range r.Checks {
		line := f.Detail
		if f.Do != "" {
			line += " -> " + f.Do
		}
		if _, err := fmt.Fprintf(e.out, "%-6s  %-17s  %s\n", f.Status, f.Check, printable(line)); err != nil {
			return err
		}
	}
	if !layers {
		return nil
	}
	for _, l := range r.Layers {
		if _, err := fmt.Fprintln(e.out, printable(l.String())); err != nil {
			return err
		}
	}
	return nil
}

// printable keeps what comes from elsewhere on its line, and from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' {
			return ';'
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimRight(s, "\n"))
}
