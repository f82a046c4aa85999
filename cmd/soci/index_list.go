// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/artifacts"
	"github.com/seekoci/seekoci/index"
)

func indexListCommand() *cli.Command {
	return &cli.Command{
		Name:    "list",
		Aliases: []string{"ls"},
		Usage:   "list SOCI indexes, the newest first",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "ref", Usage: "only of the image `ref`"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print digests only"},
			&cli.StringSliceFlag{Name: "platform", Aliases: []string{"p"}, Usage: "only for this `platform`; may be repeated"},
		},
		Action: action(indexList),
	}
}

func indexList(ctx context.Context, e *env, cmd *cli.Command) error {
	sel, err := platformSelection(cmd)
	if err != nil {
		return err
	}
	names, err := e.imageNames(ctx)
	if err != nil {
		return err
	}
	list, err := e.recorded(artifacts.TypeIndex)
	if err != nil {
		return err
	}
	var target digest.Digest
	if ref := cmd.String("ref"); ref != "" {
		img, err := e.image(ctx, ref)
		if err != nil {
			return err
		}
		target = img.Target.Digest
		names = map[digest.Digest][]string{target: {img.Name}}
	}
	w := newTable(e.out)
	if !cmd.Bool("quiet") {
		w.row("DIGEST", "SIZE", "IMAGE REF", "PLATFORM", "MEDIA TYPE", "MANIFEST VERSION", "CREATED")
	}
	for _, a := range list {
		if target != "" && a.ImageDigest != target || !sel.has(a.Platform) {
			continue
		}
		if cmd.Bool("quiet") {
			w.row(a.Digest)
			continue
		}
		refs := names[a.ImageDigest]
		if len(refs) == 0 {
			refs = []string{""}
		}
		for _, ref := range refs {
			w.row(a.Digest, a.Size, ref, a.Platform, a.MediaType, versionOf(a), age(a.CreatedAt))
		}
	}
	return w.flush()
}

// imageNames returns the names of containerd's images by target.
func (e *env) imageNames(ctx context.Context) (map[digest.Digest][]string, error) {
	c, err := e.containerd(ctx)
	if err != nil {
		return nil, err
	}
	list, err := c.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	names := make(map[digest.Digest][]string)
	for _, img := range list {
		names[img.Target.Digest] = append(names[img.Target.Digest], img.Name)
	}
	return names, nil
}

// recorded returns the recorded artifacts of one type, the newest first.
func (e *env) recorded(t artifacts.Type) ([]artifacts.Entry, error) {
	db, err := e.db()
	if err != nil {
		return nil, err
	}
	all, err := db.List()
	if err != nil {
		return nil, err
	}
	var list []artifacts.Entry
	for _, a := range all {
		if a.Type == t {
			list = append(list, a)
		}
	}
	return list, nil
}

// has reports whether s lists a platform, written as platforms.Format does, or lists none.
func (s selection) has(platform string) bool {
	for _, p := range s.list {
		if platforms.Format(platforms.Normalize(p)) == platform {
			return true
		}
	}
	return len(s.list) == 0
}

// versionOf names the version of a recorded index.
func versionOf(a artifacts.Entry) string {
	for _, v := range []index.Version{index.V1, index.V2} {
		if a.ArtifactType == v.ArtifactType() {
			return fmt.Sprintf("v%d", v)
		}
	}
	return "unknown"
}

// age says how long ago t was.
func age(t time.Time) string {
	if t.IsZero() {
		return "n/a"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

// table prints rows in columns.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer) table {
	return table{tabwriter.NewWriter(w, 8, 8, 4, ' ', 0)}
}

func (t table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, c)
	}
	if len(cells) > 1 {
		fmt.Fprint(t.w, "\t")
	}
	fmt.Fprintln(t.w)
}

func (t table) flush() error { return t.w.Flush() }
