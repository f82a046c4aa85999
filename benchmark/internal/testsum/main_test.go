// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name, events, want string
	}{
		{"pass and skip", `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:9: no /dev/fuse\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB","Elapsed":0}
{"Action":"pass","Package":"p","Elapsed":1.5}
{"Action":"output","Package":"q","Output":"?   \tq\t[no test files]\n"}
{"Action":"skip","Package":"q","Elapsed":0}
`, `ok   p 1.5s
SKIP p TestB: b_test.go:9: no /dev/fuse
1 passed, 0 failed, 1 skipped
`},
		{"failure", `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: wrong\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p","Elapsed":0.25}
`, `FAIL p TestA
    a_test.go:3: wrong
FAIL p 250ms
0 passed, 1 failed, 0 skipped
`},
		{"build failure", `{"ImportPath":"p","Action":"build-output","Output":"# p\n"}
{"ImportPath":"p","Action":"build-output","Output":"p.go:1: undefined: x\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","Elapsed":0,"FailedBuild":"p"}
`, `# p
p.go:1: undefined: x
FAIL	p [build failed]
FAIL p 0s
0 passed, 1 failed, 0 skipped
`},
		{"panic outside of tests", `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"panic: oops\n"}
{"Action":"fail","Package":"p","Elapsed":0}
not json
`, `panic: oops
FAIL p 0s
not json
1 passed, 1 failed, 0 skipped
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			s, err := Read(strings.NewReader(tt.events), &out)
			if err != nil {
				t.Fatal(err)
			}
			s.Print(&out)
			if out.String() != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", out.String(), tt.want)
			}
		})
	}
}
