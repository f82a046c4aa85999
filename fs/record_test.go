// SPDX-License-Identifier: Apache-2.0

package fs

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"strings"
	"testing"

	"github.com/seekoci/seekoci/ztoc"
)

// TestNodeIDs pins what the kernel remembers of a layer. A version of this package that
// gives another node another number would serve wrong bytes to those who use a mount that
// it takes over: whoever has to change this changes nodeLayout.
func TestNodeIDs(t *testing.T) {
	tr, err := newTree(entries{
		file("z", 1), dir("b"), file("b/two", 2), link("b/hard", "z"), symlink("a", "z"),
		file("c/d/deep", 3), file("b/one", 4), {Name: "c/.wh.gone", Type: ztoc.TypeReg}, file("z", 5), link("hard2", "b/hard"),
	}, layerSize, false, plenty())
	must(t, err)
	var got []string
	for i := range tr.nodes {
		n := &tr.nodes[i]
		got = append(got, tr.name(n))
		if f := tr.file(uint32(i)); f != uint32(i) {
			got[i] += ">" + tr.name(&tr.nodes[f])
		}
	}
	const want = " a b c hard2 z hard>hard2 one two d gone deep"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("nodes are %q, want %q", s, want)
	}
	if id := (ref{&layer{slot: 7}, 9}).id(); id != 7<<32|9 {
		t.Errorf("node id is %x", id)
	}
	if nodeLayout != 1 {
		t.Error("this test is of layout 1")
	}
}

func testRecord() *record {
	return &record{
		dev: 0x2a, layout: nodeLayout, maxRead: maxRead,
		request: bytes.Repeat([]byte{1}, 104), reply: bytes.Repeat([]byte{2}, 80),
	}
}

func TestRecord(t *testing.T) {
	r := testRecord()
	p := r.marshal()
	got, err := parseRecord(p)
	must(t, err)
	if !reflect.DeepEqual(got, r) {
		t.Errorf("record is %+v, want %+v", got, r)
	}
	must(t, r.serves())

	// Of a later version, which has more to say.
	more := append(bytes.Clone(p), binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 99), 3)...)
	if got, err = parseRecord(append(more, "new"...)); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("record is %+v, %v", got, err)
	}
	for _, other := range []record{{layout: nodeLayout + 1, maxRead: maxRead}, {layout: nodeLayout, maxRead: maxRead + 1}} {
		if err := other.serves(); err == nil {
			t.Errorf("%+v can be served", other)
		}
	}
	for n := range len(p) {
		if got, err := parseRecord(p[:n]); err == nil {
			t.Errorf("%d of %d bytes are %+v", n, len(p), got)
		}
	}
	for _, spoil := range []func(*record){
		func(r *record) { r.dev = 0 },
		func(r *record) { r.request = r.request[:50] },
		func(r *record) { r.reply = nil },
		func(r *record) { r.request = make([]byte, maxFieldSize+1) },
	} {
		r := testRecord()
		spoil(r)
		if _, err := parseRecord(r.marshal()); err == nil {
			t.Errorf("spoilt record %+v accepted", r)
		}
	}
}

// FuzzRecord holds that no record does harm.
func FuzzRecord(f *testing.F) {
	f.Add(testRecord().marshal())
	f.Add([]byte(recordMagic))
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := parseRecord(p)
		if err != nil {
			return
		}
		agreed(r.reply)
		again, err := parseRecord(r.marshal())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("record %+v is %+v, %v", r, again, err)
		}
	})
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{"/a/b": "/a/b", `/a\040b`: "/a b", `\134\011`: "\\\t", `/a\04`: `/a\04`, `/a\999`: `/a\999`} {
		if got := unescape(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
	for _, dir := range []string{"/proc", "/nothing is here"} {
		if m, ok, err := mountedOn(dir); err != nil || ok != (dir == "/proc") || ok && m.fsType != "proc" {
			t.Errorf("on %s is %+v, %v, %v", dir, m, ok, err)
		}
	}
}
