package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/sealbus/sealbus/internal/envelope"
	"github.com/sealbus/sealbus/policy"
)

// disk ends the story: broker and agents are stopped, so that everything is written out, and every file of the
// store is read.
func disk(ctx context.Context, s *scene) error {
	s.say("At last it switches the broker off, takes the disk, and searches every file of the store.")
	stored, err := s.enemy.store.frames(ctx, policy.TopicSubject(ledger))
	if err != nil {
		return err
	}
	if err := s.stop(ctx); err != nil {
		return fmt.Errorf("stopping: %w", err)
	}
	var all [][]byte
	size, found := 0, make(map[string]bool)
	err = eachFile(s.store, func(_ string, data []byte) error {
		all, size = append(all, data), size+len(data)
		for _, fragment := range s.needles.find(data) {
			found[fragment] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	onDisk := 0
	kept, messages := s.ofText(ledger, stored)
	for _, frame := range kept {
		if slices.ContainsFunc(all, func(data []byte) bool { return bytes.Contains(data, frame) }) {
			onDisk++
		}
	}
	clear := []string{"topic/ledger", ledger, s.scout.bus.Self().String(), policy.TopicStream("ledger")}
	there := controls(clear, all)
	s.fact(messages == len(s.text.pieces) && onDisk == len(kept), "all %s of the text are in the files, byte for byte, as ciphertext", plural(onDisk, "frame"))
	s.search(len(found), fmt.Sprintf("of %s of the text in %s, %s bytes", plural(s.needles.size(), "fragment"), plural(len(all), "file"), number(size)))
	s.fact(there == len(clear), "the same files do hold the names of sender and channel: %d of %d found", there, len(clear))
	s.figure("files", len(all))
	s.figure("bytes", size)
	s.figure("frames_on_disk", onDisk)
	s.figure("lines", s.needles.lines)
	s.figure("lines_too_short", s.needles.short)
	s.figure("fragments", s.needles.size())
	s.figure("fragments_known_before", s.needles.known)
	s.figure("fragments_found", len(found))
	s.figure("names_found", there)
	if s.kept {
		s.figure("store", s.store)
		s.say("The store stays, to be looked at: %s", s.store)
	}
	return nil
}

// ofText returns the frames, among those given, in which the planner was sent the text, by their ids, and how many
// messages they hold.
func (s *scene) ofText(subject string, frames [][]byte) (list map[string][]byte, messages int) {
	sent := make(map[string]bool)
	for _, m := range s.planner.got.since(0) {
		if m.Subject == subject && m.ContentType() != "" { // nothing else has one
			sent[m.ID.String()] = true
		}
	}
	list = make(map[string][]byte)
	for _, raw := range frames {
		var f envelope.Frame
		// A frame's id is that of its first message.
		if id := &f.ID; envelope.Parse(raw, &f) == nil && sent[id.String()] && list[id.String()] == nil {
			list[id.String()] = raw
			messages += int(f.Count)
		}
	}
	return list, messages
}
