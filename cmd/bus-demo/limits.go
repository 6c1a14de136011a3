package main

import "time"

const (
	maxInput   = 1 << 20  // bytes of text that are sent; the rest of the input is left out
	maxPiece   = 64 << 10 // bytes of text in one message, well below agentbus.MaxPayload
	maxPieces  = 40       // messages that the text is sent in, as long as maxPiece allows
	maxEntries = 20000    // files and directories that are looked at below --input
	maxRuns    = 9999     // below --data

	window    = 16 // bytes of the fragments that are searched for, at every offset of the text
	shortLine = 8  // a line shorter than window is searched for whole; below this it would prove nothing

	fewTasks   = 24                     // a text of fewer messages is cut into about as many tasks
	shortLease = 200 * time.Millisecond // on a task, once its worker is known to be dead

	certLife = time.Hour
	startup  = 30 * time.Second // for broker and agents to come up
	patience = 30 * time.Second // for one chapter
	closing  = 20 * time.Second // for agents and broker to stop
)
