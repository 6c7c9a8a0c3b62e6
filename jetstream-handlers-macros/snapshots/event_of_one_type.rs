// The expansion of:
//
// #[event(subject = "orders.{region}.created", id = "id", version = 2)]
// struct OrderCreated {
//     id: u64,
//     region: String,
// }

#[automatically_derived]
impl ::jetstream_handlers::Event for OrderCreated {
    const PATTERNS: &'static [&'static str] = &["orders.{region}.created"];
    const VERSION: ::core::option::Option<u32> = ::core::option::Option::Some(2);
    fn subject(
        &self,
    ) -> ::core::result::Result<::std::string::String, ::jetstream_handlers::Error> {
        ::jetstream_handlers::__private::event_subject(
            "orders.{region}.created",
            &[&self.region],
        )
    }
    fn message_id(&self) -> ::core::option::Option<::std::string::String> {
        ::core::option::Option::Some(
            ::jetstream_handlers::__private::ToString::to_string(&self.id),
        )
    }
}
::jetstream_handlers::__declared_event!(
    OrderCreated; ["orders.{region}.created", OrderCreated, < OrderCreated as
    ::jetstream_handlers::Event > ::type_codec(), < OrderCreated as
    ::jetstream_handlers::Event > ::VERSION, ::core::option::Option::None]
);
