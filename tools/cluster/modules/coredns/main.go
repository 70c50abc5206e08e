// CoreDNS with the plugins that manifests/dns.yaml asks for. With all of its own it takes twice as long to build.
// Plugins are chosen as https://coredns.io/2017/07/25/compile-time-enabling-or-disabling-plugins/ has it.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func init() {
	// Which exist, in the order in which they see a request.
	dnsserver.Directives = []string{"errors", "ready", "kubernetes"}
}

func main() {
	coremain.Run()
}
