package telemetry

import (
	"net"
	"testing"

	"go.opentelemetry.io/otel/attribute"
)

func TestAddressesOfServersAndPeers(t *testing.T) {
	t.Parallel()
	text := func(kvs []attribute.KeyValue) string {
		set := attribute.NewSet(kvs...)
		return set.Encoded(attribute.DefaultEncoder())
	}
	for target, want := range map[string]string{
		"dns:///shop:443":           "server.address=shop,server.port=443",
		"dns://8.8.8.8/shop:443":    "server.address=shop,server.port=443",
		"dns:///shop":               "server.address=shop",
		"dns:///shop:https":         "server.address=shop",
		"passthrough:///[::1]:8080": "server.address=::1,server.port=8080",
		"https://shop":              "server.address=shop",
		"http://shop:8080":          "server.address=shop,server.port=8080",
		"unix:/run/shop.sock":       "server.address=/run/shop.sock",
		"unix:///run/shop.sock":     "server.address=/run/shop.sock",
	} {
		if got := text(serverAddressOf(target)); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
	for want, addr := range map[string]net.Addr{
		"network.peer.address=10.0.0.1,network.peer.port=443": &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 443},
		"network.peer.address=/run/shop.sock":                 &net.UnixAddr{Name: "/run/shop.sock", Net: "unix"},
		"":                                                    nil,
	} {
		if got := text(peerAttributes(addr)); got != want {
			t.Errorf("%v: %s, want %s", addr, got, want)
		}
	}
}
