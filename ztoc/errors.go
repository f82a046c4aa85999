// SPDX-License-Identifier: Apache-2.0

package ztoc

import (
	"errors"
	"fmt"
)

// The errors of this package, for errors.Is.
var (
	// ErrFormat says that a layer or a zTOC is malformed; a *FormatError tells where.
	ErrFormat = errors.New("malformed")
	// ErrDigest says that the bytes of a span do not have the digest the zTOC gives.
	ErrDigest = errors.New("digest mismatch")
	// ErrUnsupported says that a layer holds something a zTOC cannot describe.
	ErrUnsupported = errors.New("unsupported")
	// ErrLimit says that a layer or a zTOC exceeds one of the limits of this package.
	ErrLimit = errors.New("limit exceeded")
)

// FormatError says what of a layer or zTOC is malformed, and where. It matches ErrFormat.
type FormatError struct {
	Field string // such as "gzip trailer", "tar header", "checkpoint 3"
	Off   int64  // byte offset in the stream Field names; -1 where none applies
	Err   error  // what is wrong with it
}

// Error names the field, the offset and the fault in one line.
func (e *FormatError) Error() string {
	if e.Off < 0 {
		return fmt.Sprintf("malformed %s: %v", e.Field, e.Err)
	}
	return fmt.Sprintf("malformed %s at offset %d: %v", e.Field, e.Off, e.Err)
}

// Unwrap returns the fault.
func (e *FormatError) Unwrap() error { return e.Err }

// Is reports whether target is ErrFormat.
func (e *FormatError) Is(target error) bool { return target == ErrFormat }

// badf returns the FormatError of a field that has no offset of its own.
func badf(field, format string, args ...any) error {
	return &FormatError{Field: field, Off: -1, Err: fmt.Errorf(format, args...)}
}
