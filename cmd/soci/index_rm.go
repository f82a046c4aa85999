// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
)

func indexRemoveCommand() *cli.Command {
	return &cli.Command{
		Name:      "remove",
		Aliases:   []string{"rm"},
		Usage:     "remove SOCI indexes, by digest or all of an image",
		ArgsUsage: "[digest...]",
		Flags:     []cli.Flag{&cli.StringFlag{Name: "ref", Usage: "remove the indexes of the image `ref`"}},
		Action:    action(indexRemove),
	}
}

func indexRemove(ctx context.Context, e *env, cmd *cli.Command) error {
	args, ref := cmd.Args().Slice(), cmd.String("ref")
	switch {
	case len(args) > 0 && ref != "":
		return errors.New("please provide either index digests or image ref, but not both")
	case len(args) == 0 && ref == "":
		return errors.New("please provide either index digests or image ref")
	}
	dgsts, err := e.removals(ctx, args, ref)
	if err != nil {
		return err
	}
	st, err := e.store(ctx)
	if err != nil {
		return err
	}
	db, err := e.db()
	if err != nil {
		return err
	}
	for _, dgst := range dgsts {
		if err := db.Remove(dgst); err != nil {
			return fmt.Errorf("remove index %s: %w", dgst, err)
		}
		if err := st.Delete(ctx, dgst); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove index %s: %w", dgst, err)
		}
	}
	return nil
}

// removals returns the indexes that args name, or those of the image ref. All
// are checked before the first is removed.
func (e *env) removals(ctx context.Context, args []string, ref string) ([]digest.Digest, error) {
	var dgsts []digest.Digest
	if ref != "" {
		img, err := e.image(ctx, ref)
		if err != nil {
			return nil, err
		}
		list, err := e.recorded(artifacts.TypeIndex)
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			if a.ImageDigest == img.Target.Digest {
				dgsts = append(dgsts, a.Digest)
			}
		}
		return dgsts, nil
	}
	db, err := e.db()
	if err != nil {
		return nil, err
	}
	for _, arg := range args {
		dgst, err := digest.Parse(arg)
		if err != nil {
			return nil, fmt.Errorf("parse index digest %q: %w", arg, err)
		}
		a, err := db.Get(dgst)
		if err != nil {
			return nil, fmt.Errorf("remove index %s: %w", dgst, err)
		}
		if a.Type != artifacts.TypeIndex {
			return nil, fmt.Errorf("remove index %s: it is not a SOCI index but an artifact of type %s", dgst, a.Type)
		}
		dgsts = append(dgsts, dgst)
	}
	return dgsts, nil
}
