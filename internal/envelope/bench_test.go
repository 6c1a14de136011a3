package envelope

import (
	"strconv"
	"testing"
)

var benchSizes = []int{128, 1 << 10, 16 << 10}

// BenchmarkEncode makes a plaintext of one message, the associated data and
// the frame around them. The seal is left out: the plaintext stands in for the
// ciphertext, grown by what a seal adds.
func BenchmarkEncode(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			h, m := testHeader(0), testMessage(size)
			plain, frame := make([]byte, 0, size+1024), make([]byte, 0, size+2048)
			ad := make([]byte, 0, MaxAssociatedData)
			var err error
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if plain, err = AppendMessage(plain[:0], &m, false); err != nil {
					b.Fatal(err)
				}
				plain = append(plain, make([]byte, MinCiphertext)...)
				if frame, err = AppendHeader(frame[:0], &h); err != nil {
					b.Fatal(err)
				}
				ad = AppendAssociatedData(ad[:0], frame)
				if frame, err = AppendCiphertext(frame, plain); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParse is the way back, the seal left out again.
func BenchmarkParse(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			h, m := testHeader(0), testMessage(size)
			plain := ok(AppendMessage(nil, &m, false))
			wire := ok(AppendFrame(nil, &Frame{Header: h, Ciphertext: append(plain, make([]byte, MinCiphertext)...)}))
			var f Frame
			ad, messages := make([]byte, 0, MaxAssociatedData), make([]Message, 0, 1)
			var err error
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err = Parse(wire, &f); err != nil {
					b.Fatal(err)
				}
				ad = AppendAssociatedData(ad[:0], f.Head)
				if messages, err = ParseMessages(plain, f.Flags, f.Count, messages[:0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLeaf(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			h := testHeader(0)
			head, ciphertext := ok(AppendHeader(nil, &h)), make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				Leaf(head, ciphertext)
			}
		})
	}
}

// BenchmarkTree is what signing a batch costs before the signature: the tree
// and a path for each leaf.
func BenchmarkTree(b *testing.B) {
	for _, n := range []int{1, 32, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			leaves := make([][HashSize]byte, n)
			var tree Tree
			var path []byte
			var err error
			b.ReportAllocs()
			for b.Loop() {
				if err = tree.Build(leaves); err != nil {
					b.Fatal(err)
				}
				for i := range leaves {
					if path, err = tree.AppendPath(path[:0], i); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkRoot folds one leaf up, as each receiver does.
func BenchmarkRoot(b *testing.B) {
	for _, depth := range []uint8{0, 5, MaxDepth} {
		b.Run(strconv.Itoa(int(depth)), func(b *testing.B) {
			path := make([]byte, int(depth)*HashSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Root(testHashOne, depth, 0, path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

var testHashOne = testHash(1)
