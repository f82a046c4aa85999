// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
	"github.com/seekoci/seekoci/index"
)

func prefetchListCommand() *cli.Command {
	return &cli.Command{
		Name:    "list",
		Aliases: []string{"ls"},
		Usage:   "list prefetch artifacts",
		Flags:   []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print JSON"}},
		Action:  action(prefetchList),
	}
}

// prefetchRow is one artifact in the JSON of prefetch list.
type prefetchRow struct {
	Digest      string
	LayerDigest string
	TotalSpans  int // -1: unknown
	CreatedAt   time.Time
}

func prefetchList(ctx context.Context, e *env, cmd *cli.Command) error {
	list, err := e.recorded(artifacts.TypePrefetch)
	if err != nil {
		return err
	}
	st, err := e.store(ctx)
	if err != nil {
		return err
	}
	rows := make([]prefetchRow, 0, len(list))
	for _, a := range list {
		row := prefetchRow{a.Digest.String(), a.OriginalDigest.String(), -1, a.CreatedAt}
		if p, _, err := readPrefetch(ctx, st, a.Digest); err == nil {
			row.TotalSpans = totalSpans(p)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rows = append(rows, row)
	}
	if cmd.Bool("json") {
		return printJSON(e.out, rows)
	}
	w := newTable(e.out)
	w.row("DIGEST", "LAYER DIGEST", "SPANS", "CREATED")
	for _, r := range rows {
		var spans any = r.TotalSpans
		if r.TotalSpans < 0 {
			spans = "n/a"
		}
		w.row(r.Digest, r.LayerDigest, spans, age(r.CreatedAt))
	}
	return w.flush()
}

// readPrefetch reads and validates a prefetch artifact and returns its bytes as well.
func readPrefetch(ctx context.Context, st contentStore, dgst digest.Digest) (*index.Prefetch, []byte, error) {
	b, err := index.ReadAll(ctx, st, ocispec.Descriptor{Digest: dgst}, index.MaxPrefetchSize)
	if err != nil {
		return nil, nil, err
	}
	p, err := index.UnmarshalPrefetch(b)
	return p, b, err
}

// totalSpans is how many spans p lists.
func totalSpans(p *index.Prefetch) int {
	n := 0
	for _, r := range p.Spans {
		n += r.End - r.Start
	}
	return n
}
