// SPDX-License-Identifier: Apache-2.0

//go:build race

package fs

// underRace says that the race detector looks on, which takes several times as long.
const underRace = true
