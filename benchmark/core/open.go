// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/seekoci/seekoci/benchmark/internal/stat"
	"github.com/seekoci/seekoci/ztoc"
)

// opens is how often in a round a zTOC is opened: it takes so little.
const opens = 10

// open measures how long it takes to open the compact zTOC of l, in memory, and to find files in it.
func (b *bench) open(ctx context.Context, l *layer) error {
	x, err := b.index(ctx, l)
	if err != nil {
		return err
	}
	names := make([]string, 0, x.compact.Len())
	for i, e := range x.compact.Entries() {
		if e.Name != x.ztoc.TOC[i].Name {
			return fmt.Errorf("file %d is %q in the compact zTOC, %q in the other", i, e.Name, x.ztoc.TOC[i].Name)
		}
		names = append(names, e.Name)
	}
	last := names[len(names)-1]
	find := func(c *ztoc.Compact, name string) error {
		if e, ok := c.Lookup(name); !ok || e.Name != name {
			return fmt.Errorf("look up %q: have %q", name, e.Name)
		}
		return nil
	}
	var opened, unmarshalled, found stat.Series
	for range b.rounds * opens {
		if err := errors.Join(
			opened.Time(func() error {
				c, err := ztoc.OpenCompact(x.small)
				if err != nil {
					return err
				}
				return find(c, last)
			}),
			unmarshalled.Time(func() error { _, err := ztoc.Unmarshal(x.old); return err }),
		); err != nil {
			return err
		}
	}
	for range b.rounds {
		if err := found.Time(func() error {
			for _, name := range names {
				if err := find(x.compact, name); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	b.section(fmt.Sprintf("%s: %d files, zTOCs in memory", l.name, len(names)))
	b.line("  %-44s %26s ms", "open the compact zTOC, look one path up", ms(opened).Format("%.3f"))
	b.line("  %-44s %26s ms", "unmarshal the 0.9 zTOC", ms(unmarshalled).Format("%.3f"))
	b.line("  %-44s %26s ms", "look all paths up in the compact zTOC", ms(found).Format("%.3f"))
	b.goal(fmt.Sprintf("open the compact zTOC of %d files, ready for lookups, ms", len(names)), l, ms(opened), want{10, 1})
	return nil
}

// ms turns seconds into milliseconds.
func ms(s stat.Series) stat.Series {
	m := make(stat.Series, len(s))
	for i, v := range s {
		m[i] = v * 1e3
	}
	return m
}
