// The API reference: Swagger UI from the package, without its own address bar.
SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger", deepLinking: true, validatorUrl: null});
