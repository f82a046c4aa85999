// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package ztoc

// adviseHuge asks for huge pages, where there is a way to.
func adviseHuge([]byte) {}
