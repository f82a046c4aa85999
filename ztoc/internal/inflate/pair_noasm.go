// SPDX-License-Identifier: Apache-2.0

//go:build !amd64 || noasm || nounsafe

package inflate

// pair does what DecodePair promises, one job after the other.
func pair(a, _ *Job) { a.alone() }
