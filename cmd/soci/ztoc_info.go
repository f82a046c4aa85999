// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/index"
	"github.com/seekoci/seekoci/ztoc"
)

func ztocInfoCommand() *cli.Command {
	return &cli.Command{
		Name:        "info",
		Usage:       "show a zTOC as JSON",
		ArgsUsage:   "<digest>",
		Description: "The zTOC may have either format. Instead of a digest, the path of a zTOC file is taken as well.",
		Action:      action(ztocInfo),
	}
}

// ztocReport is the JSON of ztoc info.
type ztocReport struct {
	Format            string     `json:"format,omitempty"` // and the digests: only of a compact zTOC
	Version           string     `json:"version"`
	BuildTool         string     `json:"build_tool"`
	Size              int64      `json:"size"`
	SpanSize          int64      `json:"span_size"`
	NumSpans          int        `json:"num_spans"`
	NumFiles          int        `json:"num_files"`
	NumMultiSpanFiles int        `json:"num_multi_span_files"`
	LayerDigest       string     `json:"layer_digest,omitempty"`
	DiffID            string     `json:"diff_id,omitempty"`
	Files             []ztocFile `json:"files"`
}

// ztocFile is a file in it. EndSpan is the span of the offset behind the file.
type ztocFile struct {
	Filename  string `json:"filename"`
	Offset    int64  `json:"offset"`
	Size      int64  `json:"size"`
	Type      string `json:"type"`
	StartSpan int    `json:"start_span"`
	EndSpan   int    `json:"end_span"`
}

func ztocInfo(ctx context.Context, e *env, cmd *cli.Command) error {
	arg := cmd.Args().First()
	if arg == "" {
		return errors.New("ztoc digest needs to be specified")
	}
	z, size, err := e.readZTOC(ctx, arg)
	if err != nil {
		return err
	}
	zi := z.ZInfo()
	report := ztocReport{
		Version: z.Version(), BuildTool: z.BuildTool(), Size: size,
		SpanSize: zi.SpanSize, NumSpans: len(zi.Spans), NumFiles: z.Len(),
		LayerDigest: z.LayerDigest().String(), DiffID: z.DiffID().String(),
		Files: make([]ztocFile, 0, z.Len()),
	}
	if z.Format() != ztoc.Format09 {
		report.Format = string(z.Format())
	}
	last := zi.UncompressedSize - 1
	for _, f := range z.Entries() {
		row := ztocFile{
			Filename: f.Name, Offset: f.Offset, Size: f.Size, Type: f.Type.String(),
			StartSpan: zi.SpanAt(min(f.Offset, last)),
			EndSpan:   zi.SpanAt(min(f.Offset+f.Size, last)),
		}
		if row.StartSpan != row.EndSpan {
			report.NumMultiSpanFiles++
		}
		report.Files = append(report.Files, row)
	}
	if n := len(report.Files); n != z.Len() {
		return fmt.Errorf("read ztoc %s: its table is malformed behind entry %d of %d", arg, n, z.Len())
	}
	return printJSON(e.out, report)
}

// printJSON prints v as JSON with an indent of 2 spaces.
func printJSON(w io.Writer, v any) error {
	p, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode JSON: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", p)
	return err
}

// readZTOC opens a zTOC of either format, given by digest or by file name, and
// returns its size as well.
func (e *env) readZTOC(ctx context.Context, arg string) (*ztoc.Reader, int64, error) {
	p, err := e.readArtifact(ctx, arg)
	if err != nil {
		return nil, 0, fmt.Errorf("read ztoc %s: %w", arg, err)
	}
	z, err := ztoc.Open(p)
	if err != nil {
		return nil, 0, fmt.Errorf("read ztoc %s: %w", arg, err)
	}
	return z, int64(len(p)), nil
}

func (e *env) readArtifact(ctx context.Context, arg string) ([]byte, error) {
	dgst, err := digest.Parse(arg)
	if err != nil {
		return readSmall(arg, ztoc.MaxSize)
	}
	st, err := e.store(ctx)
	if err != nil {
		return nil, err
	}
	return index.ReadAll(ctx, st, ocispec.Descriptor{Digest: dgst}, ztoc.MaxSize)
}

// readSmall reads a file of at most limit bytes.
func readSmall(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("neither a digest nor a file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("not a regular file of at most %d bytes", limit)
	}
	return os.ReadFile(name)
}
