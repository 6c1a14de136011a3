package envelope

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"
)

func validVectors(t *testing.T) []vector {
	t.Helper()
	var out []vector
	for _, make := range []func(*testing.T) []vector{
		validFrames, validPlaintexts, validTrees, validDisclosures, validPadme,
	} {
		out = append(out, make(t)...)
	}
	return out
}

// ok is for what must not fail while vectors are made.
func ok[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func validFrames(t *testing.T) []vector {
	longest := testHeader(FlagSigned | FlagPadded | FlagCommitted)
	longest.Channel = []byte("pair/" + strings.Repeat("a", 67) + "~" + strings.Repeat("b", 63))
	longest.Sender = bytes.Repeat([]byte{'s'}, MaxSender)
	longest.Recipient = bytes.Repeat([]byte{'R'}, MaxRecipient)
	longest.Seq, longest.Expires, longest.Key = 1<<64-1, 1<<64-1, 1<<32-1
	longest.Count = MaxMessages
	shortest := testHeader(0)
	shortest.Channel, shortest.Sender, shortest.Recipient = []byte("t"), []byte("s"), []byte("r")
	shortest.Seq, shortest.Expires, shortest.Key = 1, 0, 0
	reply := testHeader(0)
	reply.Kind, reply.Ref = KindReply, testID(2)
	reply.Channel, reply.Recipient = []byte("pair/alice~bob"), []byte("alice")
	bare, ref := testHeader(0), testHeader(0)
	bare.Kind, ref.Kind = KindControl, KindControl
	ref.Ref = testID(2)

	all := []vector{
		frameVector("frame-event", "an event on a topic, unsigned", testHeader(0), sequence(60)),
		frameVector("frame-event-padded", "the padding is inside the ciphertext", testHeader(FlagPadded), sequence(60)),
		frameVector("frame-event-committed", "commit follows count", testHeader(FlagCommitted), sequence(60)),
		frameVector("frame-reply", "ref names the request", reply, sequence(60)),
		frameVector("frame-control-without-ref", "a control may answer nothing", bare, sequence(60)),
		frameVector("frame-control-with-ref", "a control may answer something", ref, sequence(60)),
		frameVector("frame-shortest", "every field as short as it gets", shortest, sequence(MinCiphertext)),
		frameVector("frame-longest-header", "every field of the header as long as it gets, and the deepest path", longest, sequence(60), 65535, MaxDepth),
		frameVector("frame-signed-alone", "depth 0: the root is the leaf itself", testHeader(FlagSigned), sequence(60), 0, 0),
		frameVector("frame-signed-in-batch", "the sixth of eight leaves", testHeader(FlagSigned), sequence(60), 5, 3),
		frameVector("frame-signed-padded-committed", "all flags", testHeader(FlagSigned|FlagPadded|FlagCommitted), sequence(60), 2, 2),
	}
	for kind := KindEvent; kind <= KindControl; kind++ {
		h := testHeader(0)
		h.Kind = kind
		if kind.answers() {
			h.Ref = testID(2)
		}
		all = append(all, frameVector("frame-kind-"+kind.String(), "", h, sequence(60)))
	}
	return all
}

// frameVector makes a frame's vector, signed by a fixed key at the place that
// position, index and depth, names.
func frameVector(name, comment string, h Header, ciphertext []byte, position ...int) vector {
	head := ok(AppendHeader(nil, &h))
	leaf := Leaf(head, ciphertext)
	v := vector{
		Name: name, Comment: comment, Type: "frame", Header: vectorHeaderOf(&h),
		AssociatedData: AppendAssociatedData(nil, head), Ciphertext: ciphertext, Leaf: leaf[:],
	}
	wire := ok(AppendCiphertext(head, ciphertext))
	if len(position) > 0 {
		index, depth := uint16(position[0]), uint8(position[1])
		var path []byte
		for l := range depth {
			sibling := testHash(0xa0 + l)
			path = append(path, sibling[:]...)
		}
		root := ok(Root(leaf, depth, index, path))
		key := ed25519.NewKeyFromSeed(sequence(ed25519.SeedSize))
		signed := AppendSignedRoot(nil, &h, depth, root)
		sig := ed25519.Sign(key, signed)
		v.Signature = &vectorSignature{depth, index, path, sig, root[:], signed, hexBytes(key.Public().(ed25519.PublicKey))}
		wire = ok(AppendSignature(wire, &Signature{depth, index, path, sig}))
	}
	v.Frame = wire
	return v
}

func vectorMessages(n int) []Message {
	out := make([]Message, n)
	for i := range out {
		out[i] = Message{
			ID: testID(byte(0x10 + i)), Salt: [SaltSize]byte(bytes.Repeat([]byte{byte(0x50 + i)}, SaltSize)),
			Payload: []byte(strings.Repeat("wheat 231.5 ", i)),
		}
		if i%2 == 1 {
			out[i].Headers = []Pair{{[]byte("Content-Type"), []byte("text/plain")}, {[]byte("traceparent"), nil}}
		}
	}
	return out
}

func validPlaintexts(t *testing.T) []vector {
	one := []Message{testMessage(11)}
	long := testMessage(1)
	for i := range MaxHeaders {
		long.Headers = append(long.Headers, Pair{[]byte{byte('!' + i)}, sequence(i)})
	}
	full := testMessage(1)
	full.Headers = []Pair{{bytes.Repeat([]byte{'k'}, MaxHeaderKey), make([]byte, MaxHeaderBytes-MaxHeaderKey-3)}}
	huge := testMessage(0)
	return []vector{
		plaintextVector("plaintext-one", "one message with no headers", one, 0),
		plaintextVector("plaintext-empty-payload", "", []Message{testMessage(0)}, 0),
		plaintextVector("plaintext-five", "with headers on every other one, and the first payload empty", vectorMessages(5), 0),
		plaintextVector("plaintext-five-committed", "a salt follows each id", vectorMessages(5), FlagCommitted),
		plaintextVector("plaintext-one-committed", "the commit is the one leaf", vectorMessages(1), FlagCommitted),
		plaintextVector("plaintext-padded", "33 bytes become 36", one, FlagPadded),
		plaintextVector("plaintext-padded-nothing-to-add", "32 bytes are their own padded size", []Message{testMessage(10)}, FlagPadded),
		plaintextVector("plaintext-five-padded-committed", "", vectorMessages(5), FlagPadded|FlagCommitted),
		plaintextVector("plaintext-signed", "the signed flag means nothing here", one, FlagSigned),
		plaintextVector("plaintext-headers-most", "64 headers, the first with an empty value", []Message{long}, 0),
		plaintextVector("plaintext-headers-longest", "8 KiB of headers, a key of 255 bytes", []Message{full}, 0),
		withPayloadZeros(plaintextVector("plaintext-payload-longest", "960 KiB of zeros; the message is not listed", []Message{huge}, 0), MaxPayload),
	}
}

func plaintextVector(name, comment string, messages []Message, flags uint8) vector {
	n := uint16(len(messages))
	v := vector{Name: name, Comment: comment, Type: "plaintext", Flags: &flags, Count: &n}
	committed := flags&FlagCommitted != 0
	var plain []byte
	for i := range messages {
		plain = ok(AppendMessage(plain, &messages[i], committed))
		v.Messages = append(v.Messages, vectorMessageOf(&messages[i], committed))
	}
	if flags&FlagPadded != 0 {
		plain = AppendPadding(plain, 0)
	}
	if committed {
		root := ok(CommitRoot(messages))
		v.Commit = root[:]
	}
	v.Plaintext = plain
	return v
}

// withPayloadZeros gives the last message, whose payload is empty, n zeros for
// a payload, without two hexadecimal digits in the file for each.
func withPayloadZeros(v vector, n int) vector {
	size := v.Plaintext[len(v.Plaintext)-4:]
	copy(size, []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	v.AppendZeros, v.Messages = n, nil
	return v
}

func validTrees(t *testing.T) []vector {
	var out []vector
	for n, name := range map[int]string{1: "one", 2: "two", 3: "three", 5: "five", 8: "eight", 9: "nine"} {
		leaves := make([][HashSize]byte, n)
		v := vector{Name: "tree-" + name, Comment: "the path to each leaf", Type: "tree"}
		for i := range leaves {
			leaves[i] = testHash(byte(i + 1))
			v.Leaves = append(v.Leaves, leaves[i][:])
		}
		var tree Tree
		if err := tree.Build(leaves); err != nil {
			t.Fatal(err)
		}
		root, depth := tree.Root(), tree.Depth()
		v.Root, v.Depth = root[:], &depth
		for i := range leaves {
			v.Paths = append(v.Paths, ok(tree.AppendPath(nil, i)))
		}
		out = append(out, v)
	}
	return out
}

func validDisclosures(t *testing.T) []vector {
	return []vector{
		disclosureVector("disclosure-of-one", "a frame of one message needs no path", 1, 0),
		disclosureVector("disclosure-first-of-five", "", 5, 0),
		disclosureVector("disclosure-last-of-five", "beside padding at two levels", 5, 4),
	}
}

func disclosureVector(name, comment string, n, index int) vector {
	messages := vectorMessages(n)
	h := testHeader(FlagCommitted)
	h.Count, h.Commit = uint16(n), ok(CommitRoot(messages))
	m := vectorMessageOf(&messages[index], true)
	return vector{
		Name: name, Comment: comment, Type: "disclosure", Header: vectorHeaderOf(&h),
		Index: &index, Message: &m, Path: ok(CommitPath(messages, index)),
	}
}

func validPadme(t *testing.T) []vector {
	v := vector{Name: "padme", Comment: "lengths and the sizes that they are padded to", Type: "padme"}
	for _, n := range []int{
		0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 22, 33, 100, 127, 128, 129, 255, 256, 257, 1000, 1023, 1024, 1025, 4095, 4097,
		65535, 65536, 65537, 100000, 524287, 524289, 983062, 991270, 1032191, 1032192,
	} {
		v.Sizes = append(v.Sizes, [2]int{n, PadmeSize(n)})
	}
	return []vector{v}
}
