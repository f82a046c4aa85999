// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seekoci/seekoci/cmd/internal/version"
	"github.com/seekoci/seekoci/cmd/soci-snapshotter-grpc/internal/config"
	"github.com/seekoci/seekoci/fs/hold"
)

// TestMain lets this program be the daemon, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == filteredArg {
		fmt.Fprintln(os.Stderr, runFiltered(os.Args[2:]))
		os.Exit(1)
	}
	if hold.Invoked(os.Args) || os.Getenv("TEST_IS_DAEMON") == "1" {
		main()
		os.Exit(0)
	}
	if len(os.Args) == 5 && os.Args[1] == checkerArg {
		if err := runChecker(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs the command in this process.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := command()
	c.Writer, c.ErrWriter = &out, &out
	err := c.Run(t.Context(), append([]string{"soci-snapshotter-grpc"}, args...))
	return out.String(), err
}

func TestCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	check(t, os.WriteFile(file, []byte("mount_timeout_sec = 77\n"), 0o600))
	bad := filepath.Join(t.TempDir(), "bad.toml")
	check(t, os.WriteFile(bad, []byte("mount_timeout_sec = -1\n"), 0o600))
	def := string(must(config.Default().Marshal())(t))
	for _, c := range []struct {
		name, args string
		out, err   string
	}{
		{name: "version", args: "--version", out: "soci-snapshotter-grpc version " + version.Version + " " + version.Revision() + "\n"},
		{name: "default", args: "config default", out: def},
		{name: "dump without file", args: "config dump", out: def},
		{name: "dump", args: "--config " + file + " config dump", out: strings.Replace(def, "mount_timeout_sec = 30", "mount_timeout_sec = 77", 1)},
		{name: "dump of a missing file", args: "--config /nonexistent/x.toml config dump", err: "load config: open /nonexistent/x.toml: no such file"},
		{name: "bad value", args: "--config " + bad, err: "load config " + bad + ": mount_timeout_sec: -1 is out of range"},
		{name: "log level", args: "--log-level loud", err: `log level "loud" is unknown`},
		{name: "argument", args: "serve", err: `"serve"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "dump without file" {
				if _, err := os.Stat(config.DefaultPath); err == nil {
					c.args = "--config " + filepath.Join("..", "..", "deploy", "config.toml") + " config dump"
				}
			}
			out, err := run(t, strings.Fields(c.args)...)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("error is %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || out != c.out {
				t.Errorf("output is %q, error %v, want %q", out, err, c.out)
			}
		})
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	sock := filepath.Join(dir, "new", "d.sock")
	l := must(listen(t.Context(), "unix://"+sock, nil))(t)
	if st := must(os.Stat(sock))(t); st.Mode().Perm() != 0o600 {
		t.Errorf("socket is %v", st.Mode())
	}
	if st := must(os.Stat(filepath.Dir(sock)))(t); st.Mode().Perm() != 0o700 {
		t.Errorf("directory of the socket is %v", st.Mode())
	}
	if _, err := listen(t.Context(), sock, nil); err == nil || !strings.Contains(err.Error(), "another daemon listens") {
		t.Errorf("second listen: %v", err)
	}
	// A daemon that was killed leaves its socket.
	u, ok := l.(interface{ SetUnlinkOnClose(bool) })
	if !ok {
		t.Fatalf("listener is a %T", l)
	}
	u.SetUnlinkOnClose(false)
	check(t, l.Close())
	must(os.Lstat(sock))(t)
	l = must(listen(t.Context(), sock, nil))(t)
	check(t, l.Close())

	file := filepath.Join(dir, "file")
	check(t, os.WriteFile(file, nil, 0o600))
	if _, err := listen(t.Context(), file, nil); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("listen on a file: %v", err)
	}
	for _, a := range []string{"tcp://127.0.0.1:1", "fd://"} {
		if _, err := listen(t.Context(), a, nil); err == nil || !strings.Contains(err.Error(), a) {
			t.Errorf("listen on %s: %v", a, err)
		}
	}
}

// TestLog holds the form of log lines.
func TestLog(t *testing.T) {
	var b bytes.Buffer
	log := must(setLogs(&b, slog.LevelInfo))(t)
	log.Debug("not shown")
	log.Warn("hello", "remote-snapshot-prepared", "true", "dur", 1500*time.Millisecond)
	var line map[string]any
	check(t, json.Unmarshal(b.Bytes(), &line))
	if line["level"] != "warning" || line["msg"] != "hello" || line["remote-snapshot-prepared"] != "true" || line["dur"] != "1.5s" {
		t.Errorf("line is %s", b.Bytes())
	}
	s, _ := line["time"].(string)
	if ts, err := time.Parse(time.RFC3339Nano, s); err != nil || time.Since(ts) > time.Minute || !strings.Contains(s, ".") {
		t.Errorf("time is %q: %v", s, err)
	}
}
