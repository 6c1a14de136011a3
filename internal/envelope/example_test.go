package envelope_test

import (
	"fmt"

	"github.com/oklog/ulid/v2"

	"github.com/sealbus/sealbus/internal/envelope"
)

func exampleHeader() envelope.Header {
	return envelope.Header{
		Kind:    envelope.KindEvent,
		ID:      ulid.MustParse("01JD9Z8B7S000000000000000A"),
		Session: ulid.MustParse("01JD9Z8B7S000000000000000B"),
		Card:    ulid.MustParse("01JD9Z8B7S000000000000000C"),
		Seq:     1, Key: 1, Count: 1,
		Channel:   []byte("topic/prices"),
		Sender:    []byte("spiffe://example.org/agent/planner"),
		Recipient: []byte("prices.eu.de"),
	}
}

// A frame goes together in the order of its bytes: header, ciphertext and, if
// the header says that it is signed, signature. Here the plaintext with an
// empty IV and tag stands in for what the seal returns.
func Example() {
	m := envelope.Message{ID: ulid.MustParse("01JD9Z8B7S000000000000000D"), Payload: []byte("wheat 231.5")}
	plain, err := envelope.AppendMessage(nil, &m, false)
	if err != nil {
		fmt.Println(err)
		return
	}
	h := exampleHeader()
	frame, err := envelope.AppendHeader(nil, &h)
	if err != nil {
		fmt.Println(err)
		return
	}
	ad := envelope.AppendAssociatedData(nil, frame)
	ciphertext := append(plain, make([]byte, envelope.MinCiphertext)...) // seal(plain, ad)
	frame, err = envelope.AppendCiphertext(frame, ciphertext)
	if err != nil {
		fmt.Println(err)
		return
	}

	var f envelope.Frame
	if err := envelope.Parse(frame, &f); err != nil {
		fmt.Println(err)
		return
	}
	messages, err := envelope.ParseMessages(plain, f.Flags, f.Count, nil) // what open(f.Ciphertext, ad) returned
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d bytes, of which %d are authenticated in the clear\n", len(frame), len(ad))
	fmt.Printf("%s to %s: %s\n", f.Kind, f.Recipient, messages[0].Payload)

	fmt.Println(envelope.Parse(frame[:len(frame)-1], &f))
	// Output:
	// 217 bytes, of which 168 are authenticated in the clear
	// event to prices.eu.de: wheat 231.5
	// envelope: ciphertext is shorter than its length says, or has no length
}

// One signature covers many frames: the sender signs the root, and each frame
// brings the path from its leaf.
func ExampleTree() {
	h := exampleHeader()
	h.Flags = envelope.FlagSigned
	var leaves [][envelope.HashSize]byte
	for seq := range uint64(5) {
		h.Seq = seq + 1
		head, err := envelope.AppendHeader(nil, &h)
		if err != nil {
			fmt.Println(err)
			return
		}
		leaves = append(leaves, envelope.Leaf(head, make([]byte, 64)))
	}
	var tree envelope.Tree
	if err := tree.Build(leaves); err != nil {
		fmt.Println(err)
		return
	}
	signed := envelope.AppendSignedRoot(nil, &h, tree.Depth(), tree.Root())
	path, err := tree.AppendPath(nil, 4)
	if err != nil {
		fmt.Println(err)
		return
	}

	root, err := envelope.Root(leaves[4], tree.Depth(), 4, path)
	fmt.Println(err, root == tree.Root())
	fmt.Printf("%d hashes in a path, %d bytes signed\n", tree.Depth(), len(signed))
	// Output:
	// <nil> true
	// 3 hashes in a path, 138 bytes signed
}

// A recipient shows one of three messages to somebody who may not read the
// others.
func ExampleVerifyCommit() {
	messages := make([]envelope.Message, 3)
	for i := range messages {
		messages[i] = envelope.Message{ID: ulid.Make(), Payload: fmt.Appendf(nil, "offer %d", i)}
		copy(messages[i].Salt[:], "use crypto/rand!")
	}
	h := exampleHeader()
	h.Flags, h.Count = envelope.FlagCommitted, 3
	var err error
	if h.Commit, err = envelope.CommitRoot(messages); err != nil {
		fmt.Println(err)
		return
	}
	path, err := envelope.CommitPath(messages, 1)
	if err != nil {
		fmt.Println(err)
		return
	}

	shown := messages[1]
	fmt.Println(envelope.VerifyCommit(&h, 1, &shown, path))
	shown.Payload = []byte("offer 999")
	fmt.Println(envelope.VerifyCommit(&h, 1, &shown, path))
	// Output:
	// <nil>
	// envelope: the message is not what the frame commits to
}
