package main

import "time"

const (
	// What a publisher may have on the way to each subscriber's handler, the same for both sides. A frame that is
	// received waits in a buffer of agentbus for as many as these; nats.go and the broker have room for more.
	maxOnWay      = 4096
	maxOnWayBytes = 8 << 20
	maxOnAllWays  = 1 << 16 // deliveries to all of the subscribers together
	maxAllBytes   = 64 << 20

	// What plain JetStream has unacknowledged at most, in messages, and in bytes maxOnWayBytes. More is not quicker.
	maxUnacknowledged = 1024
	maxKeptBytes      = 64 << 20 // written in one round of a side

	taskBatch = 1000 // tasks that are stored together
	fewTasks  = 64   // of a run, at least

	delayLead = 3 * time.Second // until the first delayed task is due: so long that all are held by the broker before
	delayStep = 5 * time.Millisecond

	replaySize = 1 << 10
	maxReplay  = 100_000_000            // messages
	slowest    = 200 * time.Microsecond // for each of them
	heapLook   = 2 * time.Millisecond   // between two looks at the heap

	minSize    = 1
	maxRounds  = 99
	maxMembers = 1000

	// Every member hears of every other, so that the time to gather them grows with more than their number.
	crewPatience = 20 * time.Minute
	maxRotations = 3

	certLife = 6 * time.Hour
	startup  = 60 * time.Second       // for a broker and the agents of one trial to come up
	stall    = 20 * time.Second       // without one message more: then they are lost
	closing  = 20 * time.Second       // for agents and broker to stop
	pause    = 500 * time.Microsecond // before a lone message, in which everything comes to rest
)

// pace is how long a run takes, and over what.
type pace struct {
	rounds      int
	round, warm time.Duration // of one side

	sizes, loneSizes, fanoutSizes, channelSizes, taskSizes []int

	inFlight, subscribers, channels, members []int

	delayed int  // tasks that wait for their time at once
	replay  int  // messages that are read back
	fewer   bool // requests at once of the smallest size alone
}

var (
	fullPace = pace{
		rounds: 5, round: 400 * time.Millisecond, warm: 150 * time.Millisecond,
		sizes: allSizes, loneSizes: allSizes, fanoutSizes: allSizes[:2], channelSizes: allSizes[:1], taskSizes: allSizes[:2],
		inFlight: []int{1, 8, 64}, subscribers: []int{1, 10, 100}, channels: []int{1, 10, 100}, members: []int{10, 100},
		delayed: 200, replay: 100_000,
	}
	quickPace = pace{
		rounds: 3, round: 70 * time.Millisecond, warm: 20 * time.Millisecond,
		sizes: allSizes, loneSizes: allSizes[:2], fanoutSizes: allSizes[:1], channelSizes: allSizes[:1], taskSizes: allSizes[:1],
		inFlight: []int{1, 8, 64}, subscribers: []int{10}, channels: []int{10, 100}, members: []int{10}, fewer: true,
		delayed: 50, replay: 10_000,
	}
	allSizes = []int{128, 1 << 10, 16 << 10, 256 << 10}
)
