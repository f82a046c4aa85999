// SPDX-License-Identifier: Apache-2.0

// Package snapshotter is containerd's snapshots.v1 over lazily loaded layers.
package snapshotter
