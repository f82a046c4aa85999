// SPDX-License-Identifier: Apache-2.0

// Package version says which build of the commands this is.
//
// Version is what the incumbent's tools compare; Revision is the commit:
//
//	fmt.Println("soci version", version.Version, version.Revision())
//
// # Limits
//
// A build outside of a checkout, without linker flags, has revision "unknown".
//
// # Decisions
//
//   - The version counts from the incumbent's release whose interfaces are
//     matched: tools refuse a soci older than 0.10.0.
package version

import "runtime/debug"

// Version is the version of the commands. The linker may set it:
// -X github.com/seekoci/seekoci/cmd/internal/version.Version=0.16.1.
var Version = "0.16.0"

// revision may be set by the linker likewise.
var revision string

// Revision returns the commit that was built, with ".m" behind it if the tree
// was modified.
func Revision() string {
	if revision != "" {
		return revision
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	rev, dirty := "unknown", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = ".m"
		}
	}
	return rev + dirty
}
