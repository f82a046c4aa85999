// SPDX-License-Identifier: Apache-2.0

package version

import (
	"regexp"
	"strconv"
	"testing"
)

func TestVersion(t *testing.T) {
	m := regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)`).FindStringSubmatch(Version)
	if m == nil {
		t.Fatalf("Version %q does not begin with x.y.z", Version)
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major == 0 && minor < 10 {
		t.Errorf("Version %q is older than 0.10.0: nerdctl refuses it", Version)
	}
	if Revision() == "" {
		t.Error("Revision is empty")
	}
}
