// Package vault is the adversary's hand in a broker's store, for tests and the demo: it takes a stream out of the broker
// as a snapshot, and puts another in its place, written as the broker writes its files, with checksums that are right.
//
// To publish again what is to be changed would show in the time and the number of every message. What JetStream says
// of a stream that was put back is what it said before, but for what was changed.
package vault

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/minio/highwayhash"
	"github.com/nats-io/nats-server/v2/server/archive"
	"github.com/nats-io/nats.go"
)

// Vault is a stream that was taken out.
type Vault struct {
	Stream   string
	Config   map[string]any
	Created  time.Time
	Messages []Message
}

// Message is a message as the store has it.
type Message struct {
	Sequence uint64
	Stored   int64 // Unix ns
	Subject  string
	Header   []byte
	Data     []byte
}

// TakeOut takes a snapshot of a stream, which stays. nc may do everything in the account that holds it.
func TakeOut(ctx context.Context, nc *nats.Conn, stream string) (*Vault, error) {
	var info struct {
		Config  map[string]any
		Created time.Time
	}
	if err := ask(ctx, nc, "$JS.API.STREAM.INFO."+stream, nil, &info); err != nil {
		return nil, err
	}
	v := &Vault{Stream: stream, Config: info.Config, Created: info.Created}
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // it has served, whatever comes of this
	if err := ask(ctx, nc, "$JS.API.STREAM.SNAPSHOT."+stream, map[string]any{"deliver_subject": inbox, "no_consumers": true}, nil); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, fmt.Errorf("a snapshot of %s: %w", stream, err)
		}
		if len(m.Data) == 0 {
			break
		}
		b.Write(m.Data)
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				return nil, err
			}
		}
	}
	return v, v.read(&b)
}

// read takes the messages out of a snapshot.
func (v *Vault) read(r io.Reader) error {
	for list := archive.NewReader(s2.NewReader(r)); ; {
		h, err := list.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("the snapshot of %s: %w", v.Stream, err)
		}
		data, err := io.ReadAll(list)
		if err != nil {
			return fmt.Errorf("the snapshot of %s: %w", v.Stream, err)
		}
		if h.Sequence > 0 {
			v.Messages = append(v.Messages, Message{h.Sequence, h.Timestamp, h.Name, data[:h.HeaderSize], data[h.HeaderSize:]})
		}
	}
	if len(v.Messages) == 0 {
		return fmt.Errorf("the snapshot of %s is empty", v.Stream)
	}
	return nil
}

// With returns the vault with other messages in it.
func (v *Vault) With(list []Message) *Vault {
	w := *v
	w.Messages = list
	return &w
}

// PutBack deletes the stream that the broker has and puts this one in its place.
func (v *Vault) PutBack(ctx context.Context, nc *nats.Conn) error {
	if err := ask(ctx, nc, "$JS.API.STREAM.DELETE."+v.Stream, nil, nil); err != nil {
		return err
	}
	var reply struct {
		To string `json:"deliver_subject"`
	}
	if err := ask(ctx, nc, "$JS.API.STREAM.RESTORE."+v.Stream, map[string]any{"config": v.Config, "state": map[string]any{}}, &reply); err != nil {
		return err
	}
	b, err := v.files()
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(b, 128<<10) {
		if _, err := nc.RequestWithContext(ctx, reply.To, chunk); err != nil {
			return fmt.Errorf("putting %s back: %w", v.Stream, err)
		}
	}
	return ask(ctx, nc, reply.To, nil, nil)
}

// files writes the stream's directory as it stands on the broker's disk, in the older of the two forms that a broker takes:
// in this one a stream keeps the time at which it was made.
func (v *Vault) files() ([]byte, error) {
	meta := maps.Clone(v.Config)
	meta["created"] = v.Created
	info, err := json.Marshal(meta)
	if err != nil {
		return nil, err
	}
	block, err := v.block()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	compressed := s2.NewWriter(&b)
	t := tar.NewWriter(compressed)
	for _, f := range []struct {
		name string
		data []byte
	}{{"meta.inf", info}, {"msgs/1.blk", block}} {
		if err := t.WriteHeader(&tar.Header{Name: f.name, Mode: 0o600, Size: int64(len(f.data)), Format: tar.FormatPAX}); err != nil {
			return nil, err
		}
		if _, err := t.Write(f.data); err != nil {
			return nil, err
		}
	}
	err = errors.Join(t.Close(), compressed.Close())
	return b.Bytes(), err
}

// block writes the messages as the broker's file has them:
//
//	length u32, sequence u64, time u64, length of the subject u16, subject [, length of the header u32, header], data, checksum u64
func (v *Vault) block() (b []byte, err error) {
	key := sha256.Sum256([]byte(v.Stream + "-1"))
	hash, err := highwayhash.New64(key[:])
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	for _, m := range v.Messages {
		size := uint32(4 + 8 + 8 + 2 + len(m.Subject) + len(m.Data) + 8)
		if len(m.Header) > 0 {
			size = size + 4 + uint32(len(m.Header)) | 1<<31
		}
		head := le.AppendUint16(le.AppendUint64(le.AppendUint64(le.AppendUint32(nil, size), m.Sequence), uint64(m.Stored)), uint16(len(m.Subject)))
		b = append(append(b, head...), m.Subject...)
		if len(m.Header) > 0 {
			b = append(le.AppendUint32(b, uint32(len(m.Header))), m.Header...)
		}
		b = append(b, m.Data...)
		hash.Reset()
		for _, part := range [][]byte{head[4:20], []byte(m.Subject), m.Header, m.Data} {
			hash.Write(part)
		}
		sum := hash.Sum64()
		b = le.AppendUint64(b, sum)
	}
	return b, nil
}

// ask makes a request of JetStream, to which the answer must be no error.
func ask(ctx context.Context, nc *nats.Conn, subject string, request, reply any) error {
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return err
		}
	}
	m, err := nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return fmt.Errorf("%s: %w", subject, err)
	}
	var failed struct {
		Error *struct{ Description string }
	}
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return fmt.Errorf("%s: %w", subject, err)
	}
	if failed.Error != nil {
		return fmt.Errorf("%s: %s", subject, failed.Error.Description)
	}
	if reply == nil {
		return nil
	}
	return json.Unmarshal(m.Data, reply)
}
