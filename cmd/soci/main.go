// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/version"
)

// What the garbage collector is told. gcPercent keeps peak memory low: that of an index of
// a million files is 188 MiB, not 235. Alone it would have a build of a few thousand files
// collect twenty times, as that has next to nothing to live for; unused, which nobody
// touches, makes the heap look larger and that five times, for 4 MiB and a twentieth less
// time.
const (
	gcPercent = 50
	unused    = 8 << 20
)

func main() {
	var heap []byte
	if os.Getenv("GOGC") == "" {
		heap = make([]byte, unused)
		debug.SetGCPercent(gcPercent)
	}
	code := run(os.Args, os.Stdin, os.Stdout, os.Stderr)
	runtime.KeepAlive(heap)
	os.Exit(code)
}

// run runs the command line args and returns the exit status. The first
// interrupt cancels; a second one kills, in case that takes too long.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	app := newApp()
	app.Reader, app.Writer, app.ErrWriter = stdin, stdout, stderr
	if err := app.Run(ctx, args); err != nil {
		fmt.Fprintf(stderr, "soci: %s\n", oneLine(err.Error()))
		return 1
	}
	return 0
}

// oneLine keeps an error on one line, whatever a server made part of it.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// newApp returns the command tree.
func newApp() *cli.Command {
	app := &cli.Command{
		Name:    "soci",
		Usage:   "index container images for lazy loading",
		Version: version.Version + " " + version.Revision(),
		Flags:   globalFlags(),
		Commands: []*cli.Command{
			createCommand(),
			pushCommand(),
			convertCommand(),
			rebuildDBCommand(),
			group("index", "manage SOCI indexes",
				indexListCommand(), indexInfoCommand(), indexRemoveCommand()),
			group("ztoc", "manage zTOCs",
				ztocListCommand(), ztocInfoCommand(), ztocGetFileCommand(), ztocBuildCommand(), ztocVerifyCommand()),
			group("prefetch", "manage prefetch artifacts",
				prefetchListCommand(), prefetchInfoCommand(), prefetchRecordCommand()),
			group("image", "manage images",
				rpullCommand()),
			doctorCommand(),
		},
		// run prints errors, and the exit status is always 1.
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
		Action:         unknownCommand,
	}
	prepare(app)
	return app
}

// group is a command that only has subcommands.
func group(name, usage string, commands ...*cli.Command) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, Commands: commands, Action: unknownCommand}
}

// unknownCommand is the action of commands that have subcommands.
func unknownCommand(_ context.Context, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return fmt.Errorf("unknown command %q: see %s --help", cmd.FullName()+" "+cmd.Args().First(), cmd.FullName())
	}
	return cli.ShowSubcommandHelp(cmd)
}

// prepare makes wrong flags one-line errors in all of the tree.
func prepare(cmd *cli.Command) {
	cmd.OnUsageError = func(_ context.Context, cmd *cli.Command, err error, _ bool) error {
		return fmt.Errorf("%w: see %s --help", err, cmd.FullName())
	}
	cmd.HideHelpCommand = true
	for _, sub := range cmd.Commands {
		prepare(sub)
	}
}

// globalFlags are the flags of all commands.
func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "address", Aliases: []string{"a"}, Value: "/run/containerd/containerd.sock",
			Usage: "`socket` of containerd", Sources: cli.EnvVars("CONTAINERD_ADDRESS"),
		},
		&cli.StringFlag{
			Name: "namespace", Aliases: []string{"n"}, Value: "default",
			Usage: "`namespace` of containerd", Sources: cli.EnvVars("CONTAINERD_NAMESPACE"),
		},
		&cli.DurationFlag{Name: "timeout", Usage: "give up after this `duration`; 0 means never"},
		&cli.BoolFlag{Name: "debug", Usage: "print the requests of push, and what libraries log, to standard error"},
		&cli.StringFlag{
			Name: "content-store", Value: storeContainerd,
			Usage: "`store` of indexes and zTOCs, containerd or soci",
		},
		&cli.StringFlag{
			Name: "root", Value: "/var/lib/soci-snapshotter-grpc/",
			Usage: "`directory` of artifacts.db and of the soci content store",
		},
	}
}

// action runs f with an environment made of the global flags, which it closes.
func action(f func(ctx context.Context, e *env, cmd *cli.Command) error) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) (err error) {
		e, err := newEnv(cmd)
		if err != nil {
			return err
		}
		defer func() {
			if cerr := e.close(); err == nil {
				err = cerr
			}
		}()
		if d := e.timeout; d > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, d, fmt.Errorf("gave up after --timeout %s", d))
			defer cancel()
		}
		return causeOf(ctx, f(e.inNamespace(ctx), e, cmd))
	}
}

// causeOf says why ctx ended where an error is only the consequence.
func causeOf(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), err)
}
