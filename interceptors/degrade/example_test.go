package degrade_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/degrade"
	"google.golang.org/grpc"
)

var recommendations = degrade.Feature{Name: "recommendations", OffFrom: degrade.Degraded}

// product is what a handler does: it leaves recommendations out while the service is degraded.
func product(ctx context.Context) string {
	if degrade.Enabled(ctx, recommendations) {
		return "a product with recommendations"
	}
	return "a product"
}

func Example() {
	server, err := interceptors.NewServer()
	if err != nil {
		fmt.Println(err)
		return
	}
	levels, err := degrade.New(degrade.OnChange(func(from, to degrade.Level) { fmt.Println("from", from, "to", to) }))
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := grpc.NewServer(append(server.ServerOptions(), levels.ServerOptions()...)...)
	defer srv.Stop()

	levels.Signal("store", degrade.Minimal) // such as from a check of the store
	fmt.Println(product(degrade.WithLevel(context.Background(), levels.Level())))
	levels.Override(degrade.Normal) // by hand
	fmt.Println(product(degrade.WithLevel(context.Background(), levels.Level())))
	// Output:
	// from normal to minimal
	// a product
	// from minimal to normal
	// a product with recommendations
}

// adminHandler sets the level by hand: POST level=2, or level= to follow what is observed again.
func adminHandler(levels *degrade.Controller) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch level, err := strconv.Atoi(r.FormValue("level")); {
		case r.Method != http.MethodPost:
			http.Error(w, "use POST", http.StatusMethodNotAllowed)
		case r.FormValue("level") == "": // follow what is observed
			levels.EndOverride()
		case err != nil || level < int(degrade.Normal) || level > int(degrade.Emergency):
			http.Error(w, "the level must be a number from 0 to 3", http.StatusBadRequest)
		default:
			levels.Override(degrade.Level(level))
		}
	})
}

// An operator sets the level on an admin port.
func ExampleController_Override() {
	levels, err := degrade.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	admin := adminHandler(levels)
	for _, level := range []string{"2", "x", ""} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/level", strings.NewReader("level="+level))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		admin.ServeHTTP(w, r)
		fmt.Println(w.Code, levels.Level())
	}
	// Output:
	// 200 minimal
	// 400 minimal
	// 200 normal
}
