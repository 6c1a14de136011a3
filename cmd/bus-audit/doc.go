// Command bus-audit verifies what an auditor of Sealbus hands out, on any machine: an export, a log, a proof, a disclosure.
//
//	bus-audit verify ledger.export --operator sha256:9b02… --ca ca.pem
//	bus-audit show ledger.export
//	bus-audit compare ledger.export other-auditor/SB_TOPIC_ledger
//	bus-audit prove ledger.export --sequence 42 --out 42.proof
//	bus-audit check-proof 42.proof --cards ledger.export --operator sha256:9b02… --ca ca.pem
//	bus-audit disclosed offer.disclosure --operator sha256:9b02… --ca ca.pem
//
// It uses no network and has no key that opens anything. What it is told to trust it believes, and nothing else: the
// fingerprints of the operators' keys and the certificate authorities, which have to come from elsewhere than the file. Files
// are taken for what strangers wrote: they are parsed strictly, and what is printed of them cannot command a terminal.
//
// The exit status says which verdict failed, for scripts; see -h.
package main
