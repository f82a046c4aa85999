// SPDX-License-Identifier: Apache-2.0

package snapshotter

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// errPanic is a panic that was contained.
var errPanic = errors.New("internal error")

// contained runs f, and makes an error of its panic. What one image says, or has on disk,
// is to cost no other: neither now nor, where it is read again, at each start of a daemon.
func contained(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v\n%s", errPanic, v, debug.Stack())
		}
	}()
	return f()
}
