// SPDX-License-Identifier: Apache-2.0

// Soci-snapshotter-grpc is a daemon that serves containerd's snapshots.v1 over
// a unix socket, with image layers that are fetched as they are read.
//
//	soci-snapshotter-grpc --root /var/lib/soci-snapshotter-grpc
//
// Its end, of whatever kind, is no container's: the mount stays, kept by a process of
// its own (package hold), and the next daemon takes it over. Two commands are about that:
//
//	soci-snapshotter-grpc --root DIR unmount   # takes away what a stopped daemon left
//	soci-snapshotter-grpc --root DIR holder    # keeps the mount, outside a pod's cgroup
//
// # Limits
//
// Below Linux 6.9 containers that run when the daemon stops lose their lazy layers. So
// they do when daemon and holder are killed at once, unless systemd's store has the mount.
//
// # Decisions
//
//   - SIGINT and SIGTERM do the same: requests end, what containers use stays.
//   - A stop that hangs ends after stopTimeout: a daemon that cannot be stopped
//     holds up a node's shutdown.
//   - A socket that nobody listens on is removed; one that somebody listens on is
//     an error.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"github.com/seekoci/seekoci/cmd/internal/version"
	"github.com/seekoci/seekoci/cmd/soci-snapshotter-grpc/internal/config"
	"github.com/seekoci/seekoci/fs/hold"
)

const (
	defaultAddress = "/run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock"
	defaultRoot    = "/var/lib/soci-snapshotter-grpc/"
)

func main() {
	if hold.Invoked(os.Args) {
		os.Exit(hold.Main())
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := command().Run(ctx, os.Args)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "soci-snapshotter-grpc: %v\n", err)
		os.Exit(1)
	}
}

func command() *cli.Command {
	return &cli.Command{
		Name:    "soci-snapshotter-grpc",
		Usage:   "run a containerd snapshotter that loads SOCI-indexed images lazily",
		Version: version.Version + " " + version.Revision(),
		Flags: []cli.Flag{
			&cli.StringFlag{
				Name: "address", Value: defaultAddress, Sources: cli.EnvVars("SOCI_SNAPSHOTTER_ADDRESS"),
				Usage: "unix socket to listen on, or fd:// for the one that systemd passes",
			},
			&cli.StringFlag{
				Name: "config", Value: config.DefaultPath, Sources: cli.EnvVars("SOCI_SNAPSHOTTER_CONFIG"),
				Usage: "configuration file",
			},
			&cli.StringFlag{
				Name: "log-level", Value: "info", Sources: cli.EnvVars("SOCI_SNAPSHOTTER_LOG_LEVEL"),
				Usage: "trace, debug, info, warn, error, fatal or panic",
			},
			&cli.StringFlag{
				Name: "root", Value: defaultRoot, Sources: cli.EnvVars("SOCI_SNAPSHOTTER_ROOT"),
				Usage: "directory of snapshots and everything else that is kept",
			},
		},
		HideHelpCommand: true,
		Commands:        []*cli.Command{configCommand(), holderCommand(), unmountCommand()},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return fmt.Errorf("unexpected argument %q", cmd.Args().First())
			}
			level, err := parseLevel(cmd.String("log-level"))
			if err != nil {
				return err
			}
			log, err := setLogs(os.Stderr, level)
			if err != nil {
				return err
			}
			c, warnings, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			for _, w := range warnings {
				log.Warn("configuration key", "key", w.Key, "reason", w.Reason)
			}
			return serve(ctx, options{address: cmd.String("address"), root: cmd.String("root"), config: c, log: log})
		},
	}
}

func configCommand() *cli.Command {
	write := func(cmd *cli.Command, c config.Config) error {
		p, err := c.Marshal()
		if err != nil {
			return err
		}
		_, err = cmd.Root().Writer.Write(p)
		return err
	}
	return &cli.Command{
		Name:  "config",
		Usage: "show the configuration",
		Commands: []*cli.Command{
			{
				Name:   "default",
				Usage:  "print the default configuration",
				Action: func(_ context.Context, cmd *cli.Command) error { return write(cmd, config.Default()) },
			},
			{
				Name:  "dump",
				Usage: "print the configuration that is in force",
				Action: func(_ context.Context, cmd *cli.Command) error {
					c, _, err := loadConfig(cmd)
					if err != nil {
						return err
					}
					return write(cmd, c)
				},
			},
		},
	}
}

// loadConfig reads the file. Only a file that was asked for must exist.
func loadConfig(cmd *cli.Command) (config.Config, []config.Warning, error) {
	c, warnings, err := config.Load(cmd.String("config"))
	if errors.Is(err, os.ErrNotExist) && !cmd.IsSet("config") {
		return config.Default(), nil, nil
	}
	return c, warnings, err
}
