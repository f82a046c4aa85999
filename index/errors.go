// SPDX-License-Identifier: Apache-2.0

package index

import (
	"errors"
	"fmt"
)

// The errors of this package.
var (
	// ErrNone says that an image has no SOCI index where Find may look.
	ErrNone = errors.New("no SOCI index")
	// ErrFormat is matched by every *FormatError.
	ErrFormat = errors.New("malformed")
	// ErrDigest says that content is not what its descriptor promises: cut short, too long or altered.
	ErrDigest = errors.New("content does not match its descriptor")
	// ErrSize says that content has more bytes than are accepted.
	ErrSize = errors.New("too large")
	// ErrUnbound says that an index may not be used as the image manifest does not name it.
	ErrUnbound = errors.New("the image manifest does not name the SOCI index")
	// ErrNoZTOCs says that there is nothing to make an index of.
	ErrNoZTOCs = errors.New("no ztocs created, all layers either skipped or produced errors")
	// ErrNoProfile says that there is no profile of any layer that an index lists.
	ErrNoProfile = errors.New("no profile of any layer that the index lists")
)

// FormatError says what is wrong with a document. It matches ErrFormat.
type FormatError struct {
	Doc string // kind of document: "SOCI index", "image manifest", ...
	Msg string
}

// Error returns a line such as "malformed SOCI index: layer 3: size -1".
func (e *FormatError) Error() string { return "malformed " + e.Doc + ": " + e.Msg }

// Is reports whether target is ErrFormat.
func (e *FormatError) Is(target error) bool { return target == ErrFormat }

func malformed(doc, format string, args ...any) error {
	return &FormatError{Doc: doc, Msg: fmt.Sprintf(format, args...)}
}
