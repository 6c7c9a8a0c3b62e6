// The expansion of:
//
// #[event(subject = "orders.created", codec = formats::MessagePackCodec)]
// struct OrderCreated {
//     id: u64,
// }

#[automatically_derived]
impl ::jetstream_handlers::Event for OrderCreated {
    const PATTERNS: &'static [&'static str] = &["orders.created"];
    fn subject(
        &self,
    ) -> ::core::result::Result<::std::string::String, ::jetstream_handlers::Error> {
        ::jetstream_handlers::__private::event_subject("orders.created", &[])
    }
    fn message_id(&self) -> ::core::option::Option<::std::string::String> {
        ::core::option::Option::None
    }
    fn type_codec() -> ::core::option::Option<
        ::jetstream_handlers::__private::DefaultCodec,
    > {
        ::jetstream_handlers::__private::event_codec::<formats::MessagePackCodec>()
    }
}
::jetstream_handlers::__declared_event!(
    OrderCreated; ["orders.created", OrderCreated, < OrderCreated as
    ::jetstream_handlers::Event > ::type_codec(), < OrderCreated as
    ::jetstream_handlers::Event > ::VERSION, ::core::option::Option::None]
);
