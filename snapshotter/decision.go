// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/seekoci/seekoci/ztoc"
)

// Kind is what became of a Prepare.
type Kind string

// The kinds of decision.
const (
	Active   Kind = "active"   // a container's snapshot: overlay mounts
	Lazy     Kind = "lazy"     // served through fs
	Local    Kind = "local"    // fetched whole and unpacked here
	Fallback Kind = "fallback" // left to containerd's unpack
	Refused  Kind = "refused"  // neither: Prepare fails
)

// Reason says why a layer is not lazy. The values are stable: they are log
// fields and metric labels.
type Reason string

// The reasons. Local unless said otherwise.
const (
	ReasonNone         Reason = ""                // lazy, active
	ReasonLabels       Reason = "labels"          // fallback: a label is missing or malformed
	ReasonLookup       Reason = "lookup"          // fallback: the image's manifest, config or index cannot be had
	ReasonNoIndex      Reason = "no-index"        // fallback: the image has no SOCI index
	ReasonUnbound      Reason = "unbound-index"   // fallback: Policy.BoundIndex, and the image manifest names no index
	ReasonNotInImage   Reason = "not-in-image"    // fallback: the manifest has no such layer at the target's place
	ReasonNoZTOC       Reason = "no-ztoc"         // the index has no zTOC for the layer
	ReasonSmall        Reason = "small"           // smaller than Options.MinLayerSize
	ReasonZTOCFetch    Reason = "ztoc-fetch"      // the zTOC cannot be had
	ReasonZTOCInvalid  Reason = "ztoc-invalid"    // the zTOC does not validate
	ReasonZTOCMismatch Reason = "ztoc-mismatch"   // the zTOC is of another layer
	ReasonDiffID       Reason = "diffid-mismatch" // with this zTOC the layer was not what the image says, or other images say
	ReasonMount        Reason = "mount"           // the layer cannot be attached to the mount
	ReasonImplied      Reason = "implied-dir"     // a directory without an entry of its own is special in a layer below
	ReasonLimit        Reason = "limit"           // the index, the zTOC or the layer is larger than the Policy lets it be; fallback for index and layer
	ReasonDevice       Reason = "device"          // refused: the layer has a device, and Policy.RefuseDevices is set
	ReasonUnpack       Reason = "unpack"          // fallback: the layer was to be local, and could not be unpacked
	ReasonPrepare      Reason = "prepare-failed"  // the lazy snapshot could not be made
)

// Decision is what became of one Prepare, and why.
type Decision struct {
	Kind   Kind
	Reason Reason
	Err    error // the error behind Reason; nil if there is none
	Image  string
	Layer  digest.Digest
	Format ztoc.Format // of the zTOC a lazy layer is served with; else ""
	Dur    time.Duration
}

// decisionError is an error that decides the fate of a layer.
type decisionError struct {
	kind   Kind
	reason Reason
	err    error
}

func (e *decisionError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("%s: %s", e.kind, e.reason)
	}
	return fmt.Sprintf("%s: %s: %v", e.kind, e.reason, e.err)
}

func (e *decisionError) Unwrap() error { return e.err }

// ztocFault returns the error in err that another zTOC of the layer may not have, nil if there is none.
func ztocFault(err error) *decisionError {
	var de *decisionError
	if !errors.As(err, &de) {
		return nil
	}
	switch de.reason {
	case ReasonZTOCFetch, ReasonZTOCInvalid, ReasonZTOCMismatch, ReasonDiffID:
		return de
	}
	return nil
}

func local(reason Reason, err error) *decisionError { return &decisionError{Local, reason, err} }

func refused(err error) *decisionError { return &decisionError{Refused, ReasonDevice, err} }

func fallback(reason Reason, err error) *decisionError {
	return &decisionError{Fallback, reason, err}
}

// decided reports a decision: one log line, with the fields that tools for the
// incumbent look for.
func (s *Snapshotter) decided(ctx context.Context, p *preparation, d Decision) {
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("decision", string(d.Kind)), slog.String("key", p.key), slog.String("parent", p.parent),
		slog.Duration("dur", d.Dur),
	}
	if d.Kind != Active {
		attrs = append(attrs, slog.String("image", d.Image), slog.String("layer", d.Layer.String()))
	}
	if d.Format != "" {
		attrs = append(attrs, slog.String("format", string(d.Format)))
	}
	if d.Reason != ReasonNone {
		attrs = append(attrs, slog.String("reason", string(d.Reason)))
	}
	if d.Err != nil {
		attrs = append(attrs, slog.String("error", d.Err.Error()))
		switch d.Reason {
		case ReasonSmall, ReasonLabels, ReasonNoIndex: // nothing is wrong
		default:
			level = slog.LevelWarn
		}
	}
	var msg string
	switch d.Kind {
	case Lazy:
		msg = "prepared remote snapshot"
		attrs = append(attrs, slog.String("remote-snapshot-prepared", "true"))
	case Local:
		msg = "prepared local snapshot"
		attrs = append(attrs, slog.String("local-snapshot-prepared", "true"))
	case Fallback:
		msg = "deferring layer to the container runtime"
		attrs = append(attrs, slog.String("defer-snapshot-runtime", "true"))
	case Refused:
		msg, level = "refused layer", slog.LevelError
	default:
		msg, level = "prepared snapshot", slog.LevelDebug
	}
	s.opts.Log.LogAttrs(ctx, level, msg, attrs...)
	s.opts.OnDecision(d)
}
