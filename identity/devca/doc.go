// Package devca is a certificate authority for development, tests and
// demonstrations. It issues the certificates of agents and broker nodes, ECDSA
// P-256, valid for minutes to days.
//
// It is not for production: its key lies in memory or in a plain file, whoever
// holds it can be anybody in the trust domain, and it asks nobody before it
// issues. Use SPIRE or another authority that attests whom it issues to.
//
// New makes an authority for one run of a program. Save and LoadCA keep one for
// a machine. AgentSource and BrokerSource give identities to use at once in the
// same program; Agent, Broker and WriteFiles write them to files for others.
package devca
