package main

import (
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// registerBank registers what protoc-gen-grpc-gateway generates for a method with the option
// (google.api.http) = {post: "/charges" body: "*"}.
func registerBank(mux *runtime.ServeMux, bank paymentsv1.BankServiceClient) error {
	return mux.HandlePath(http.MethodPost, "/charges", func(w http.ResponseWriter, r *http.Request, _ map[string]string) {
		in, out := runtime.MarshalerForRequest(mux, r)
		ctx, err := runtime.AnnotateContext(r.Context(), mux, r, paymentsv1.BankService_Charge_FullMethodName)
		if err != nil {
			runtime.HTTPError(ctx, mux, out, w, r, err)
			return
		}
		var request paymentsv1.ChargeRequest
		if err := in.NewDecoder(r.Body).Decode(&request); err != nil {
			http.Error(w, "malformed JSON", http.StatusBadRequest)
			return
		}
		var header, trailer metadata.MD
		response, err := bank.Charge(ctx, &request, grpc.Header(&header), grpc.Trailer(&trailer))
		ctx = runtime.NewServerMetadataContext(ctx, runtime.ServerMetadata{HeaderMD: header, TrailerMD: trailer})
		if err != nil {
			runtime.HTTPError(ctx, mux, out, w, r, err)
			return
		}
		runtime.ForwardResponseMessage(ctx, mux, out, w, r, response)
	})
}
