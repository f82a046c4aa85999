// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"os"
	"os/exec"
	"testing"
)

func TestKilled(t *testing.T) {
	if Killed(0) || Killed(uint32(os.Getpid())) || Killed(1) {
		t.Error("somebody who lives is killed")
	}
	c := exec.Command("true")
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if !Killed(uint32(c.Process.Pid)) {
		t.Error("a process that is gone is not")
	}
}
