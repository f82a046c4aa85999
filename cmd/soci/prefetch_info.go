// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
)

func prefetchInfoCommand() *cli.Command {
	return &cli.Command{
		Name:      "info",
		Usage:     "show a prefetch artifact",
		ArgsUsage: "<digest>",
		Flags:     []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "show its JSON as well"}},
		Action:    action(prefetchInfo),
	}
}

func prefetchInfo(ctx context.Context, e *env, cmd *cli.Command) error {
	dgst, err := digestArg(cmd, "prefetch artifact")
	if err != nil {
		return err
	}
	db, err := e.db()
	if err != nil {
		return err
	}
	a, err := db.Get(dgst)
	if err != nil {
		return fmt.Errorf("show prefetch artifact %s: %w", dgst, err)
	}
	if a.Type != artifacts.TypePrefetch {
		return fmt.Errorf("show prefetch artifact %s: it is an artifact of type %s", dgst, a.Type)
	}
	st, err := e.store(ctx)
	if err != nil {
		return err
	}
	p, raw, err := readPrefetch(ctx, st, dgst)
	if err != nil {
		return fmt.Errorf("show prefetch artifact %s: %w", dgst, err)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "Digest: %s\n", dgst)
	fmt.Fprintf(&out, "Version: 1.0\n") // the only one that validates
	fmt.Fprintf(&out, "Span Ranges: %d\n", len(p.Spans))
	fmt.Fprintf(&out, "Layer Digest: %s\n", a.OriginalDigest)
	fmt.Fprintf(&out, "Size: %d bytes\n", len(raw))
	fmt.Fprintf(&out, "Created: %s\n", a.CreatedAt.Format(time.RFC3339))
	for _, r := range p.Spans {
		fmt.Fprintf(&out, "  spans %d-%d\n", r.Start, r.End-1)
	}
	fmt.Fprintf(&out, "Total spans to prefetch: %d\n", totalSpans(p))
	if cmd.Bool("json") {
		out.WriteString("Raw JSON:\n")
		if err := json.Indent(&out, raw, "", "  "); err != nil {
			return fmt.Errorf("show prefetch artifact %s: %w", dgst, err)
		}
		out.WriteByte('\n')
	}
	_, err = out.WriteTo(e.out)
	return err
}
