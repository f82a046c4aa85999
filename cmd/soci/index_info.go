// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
	"github.com/seekoci/seekoci/index"
)

func indexInfoCommand() *cli.Command {
	return &cli.Command{
		Name:      "info",
		Usage:     "show the manifest of a SOCI index as JSON",
		ArgsUsage: "<digest>",
		Action:    action(indexInfo),
	}
}

func indexInfo(ctx context.Context, e *env, cmd *cli.Command) error {
	dgst, err := digestArg(cmd, "index")
	if err != nil {
		return err
	}
	db, err := e.db()
	if err != nil {
		return err
	}
	// An index that is not recorded may be there all the same.
	if a, err := db.Get(dgst); err == nil && a.Type != artifacts.TypeIndex {
		return fmt.Errorf("show index %s: it is not a SOCI index but an artifact of type %s", dgst, a.Type)
	}
	st, err := e.store(ctx)
	if err != nil {
		return err
	}
	p, err := index.ReadAll(ctx, st, ocispec.Descriptor{Digest: dgst}, index.MaxSize)
	if err != nil {
		return fmt.Errorf("show index %s: %w", dgst, err)
	}
	if _, err := index.Unmarshal(p); err != nil {
		return fmt.Errorf("show index %s: it is not a SOCI index: %w", dgst, err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, p, "", "  "); err != nil {
		return fmt.Errorf("show index %s: %w", dgst, err)
	}
	out.WriteByte('\n')
	_, err = out.WriteTo(e.out)
	return err
}

// digestArg is the one argument of cmd, the digest of a thing.
func digestArg(cmd *cli.Command, thing string) (digest.Digest, error) {
	arg := cmd.Args().First()
	if arg == "" {
		return "", errors.New(thing + " digest needs to be specified")
	}
	dgst, err := digest.Parse(arg)
	if err != nil {
		return "", fmt.Errorf("parse %s digest %q: %w", thing, arg, err)
	}
	return dgst, nil
}
