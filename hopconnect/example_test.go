package hopconnect_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/hopconnect"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func Example() {
	const procedure = "/shop.v1.Prices/Get"
	attempts := 0
	get := func(context.Context, *connect.Request[wrapperspb.StringValue]) (*connect.Response[wrapperspb.Int64Value], error) {
		if attempts++; attempts == 1 {
			return nil, connect.NewError(connect.CodeUnavailable, errors.New("not yet"))
		}
		return connect.NewResponse(wrapperspb.Int64(499)), nil
	}

	server, err := interceptors.NewServer()
	if err != nil {
		log.Fatal(err)
	}
	serve := connect.WithInterceptors(hopconnect.NewHandlerInterceptor(server))

	client, err := interceptors.NewClient(interceptors.WithPolicy(interceptors.MethodPolicies{
		procedure: {Idempotency: interceptors.NoSideEffects}, // unless the proto file says so
	}))
	if err != nil {
		log.Fatal(err)
	}
	call := connect.WithInterceptors(hopconnect.NewClientInterceptor(client))

	mux := http.NewServeMux()
	mux.Handle(procedure, connect.NewUnaryHandler(procedure, get, serve)) // generated code does this
	shop := httptest.NewServer(mux)
	defer shop.Close()
	prices := connect.NewClient[wrapperspb.StringValue, wrapperspb.Int64Value](http.DefaultClient, shop.URL+procedure, call)
	price, err := prices.CallUnary(context.Background(), connect.NewRequest(wrapperspb.String("tea")))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(price.Msg.GetValue(), "after", attempts, "attempts")
	// Output: 499 after 2 attempts
}
