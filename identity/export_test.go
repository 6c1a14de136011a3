package identity

// Made reachable for tests in package identity_test, which, unlike this one,
// can import devca.
var LoadFilesAt = loadFiles

const (
	CheckInterval = checkInterval
	SettleTime    = settleTime
)
