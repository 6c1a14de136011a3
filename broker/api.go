package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// findRequest asks for the first message at or after a sequence or a time, or for
// the last one, of a subject or pattern.
type findRequest struct {
	Seq   uint64     `json:"seq,omitempty"`
	Since *time.Time `json:"start_time,omitempty"`
	Next  string     `json:"next_by_subj,omitempty"`
	Last  string     `json:"last_by_subj,omitempty"`
}

// found is a message in a stream.
type found struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Headers []byte    `json:"hdrs"`
	Data    []byte    `json:"data"`
	Time    time.Time `json:"time"`
}

// find looks for a message. It asks the stream's leader, and not any replica as
// the client's own call does, because one that lags behind would say that there
// is none where there is. It returns nil when there is none.
func find(ctx context.Context, js jetstream.JetStream, stream string, request findRequest) (*found, error) {
	raw, err := call(ctx, js, "STREAM.MSG.GET."+stream, request)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Message *found              `json:"message"`
		Error   *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(raw, &answer); {
	case err != nil:
		return nil, fmt.Errorf("read the answer of stream %s: %w", stream, err)
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, nil
	case answer.Error != nil:
		return nil, fmt.Errorf("look into stream %s: %w", stream, answer.Error)
	case answer.Message == nil:
		return nil, fmt.Errorf("look into stream %s: the answer is empty", stream)
	}
	return answer.Message, nil
}

// header returns a header's first value.
func (m *found) header(name string) (string, error) {
	h, err := nats.DecodeHeadersMsg(m.Headers)
	if err != nil {
		return "", err
	}
	return h.Get(name), nil
}

// purgeRequest takes messages out of a stream: those below a sequence, 0 for all,
// of a subject or pattern, "" for all.
type purgeRequest struct {
	Below   uint64 `json:"seq,omitempty"`
	Subject string `json:"filter,omitempty"`
}

// purge returns the server's answer as it is.
func purge(ctx context.Context, js jetstream.JetStream, stream string, request purgeRequest) ([]byte, error) {
	if request == (purgeRequest{}) {
		return nil, errors.New("refusing to empty a stream")
	}
	return call(ctx, js, "STREAM.PURGE."+stream, request)
}

// purged returns how many messages went.
func purged(answer []byte) (uint64, error) {
	var a struct {
		Purged uint64              `json:"purged"`
		Error  *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return 0, err
	}
	if a.Error != nil {
		return 0, a.Error
	}
	return a.Purged, nil
}

func call(ctx context.Context, js jetstream.JetStream, subject string, request any) ([]byte, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	m, err := js.Conn().RequestWithContext(ctx, apiPrefix(js)+subject, body)
	if err != nil {
		return nil, fmt.Errorf("ask JetStream: %w", err)
	}
	return m.Data, nil
}

// apiPrefix is where js finds JetStream, "$JS.API." unless it was told otherwise.
func apiPrefix(js jetstream.JetStream) string {
	switch o := js.Options(); {
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".") + "."
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	}
	return "$JS.API."
}
