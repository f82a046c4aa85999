// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"fmt"
	"strings"
)

// next cuts the first component off a path. Slashes and dots that mean nothing
// give the empty component.
func next(path string) (c, rest string, err error) {
	c, rest, _ = strings.Cut(path, "/")
	switch {
	case c == ".":
		return "", rest, nil
	case c == "..":
		return "", "", errReason("name leads upwards")
	case len(c) > 255:
		return "", "", errReason("name of more than 255 bytes")
	case strings.IndexByte(c, 0) >= 0:
		return "", "", errReason("name with a NUL")
	}
	return c, rest, nil
}

// split cuts a tar name into its directory and its last component, which is empty for the root.
func split(name string) (dir, base string, err error) {
	if name == "" {
		return "", "", errReason("empty name")
	}
	if len(name) > pathMax {
		return "", "", errReason(fmt.Sprintf("name of more than %d bytes", pathMax))
	}
	for {
		name = strings.TrimRight(name, "/")
		if !strings.HasSuffix(name, "/.") {
			break
		}
		name = name[:len(name)-2]
	}
	i := strings.LastIndexByte(name, '/') + 1
	base, _, err = next(name[i:])
	return name[:i], base, err
}
