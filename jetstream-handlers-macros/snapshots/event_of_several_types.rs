// The expansion of:
//
// enum OrderEvent {
//     Created(OrderCreated),
//     #[event(subject = "orders.{order}.paid", id = "order")]
//     Paid(Payment),
// }

const _: () = ::core::assert!(
    < OrderCreated as ::jetstream_handlers::Event > ::PATTERNS.len() == 1,
    "a variant of an event contains an event with one subject"
);
#[automatically_derived]
impl ::jetstream_handlers::Event for OrderEvent {
    const PATTERNS: &'static [&'static str] = &[
        <OrderCreated as ::jetstream_handlers::Event>::PATTERN,
        "orders.{order}.paid",
    ];
    fn subject(
        &self,
    ) -> ::core::result::Result<::std::string::String, ::jetstream_handlers::Error> {
        match self {
            Self::Created(event) => ::jetstream_handlers::Event::subject(event),
            Self::Paid(event) => {
                ::jetstream_handlers::__private::event_subject(
                    "orders.{order}.paid",
                    &[&event.order],
                )
            }
        }
    }
    fn message_id(&self) -> ::core::option::Option<::std::string::String> {
        match self {
            #[allow(unused_variables)]
            Self::Created(event) => ::jetstream_handlers::Event::message_id(event),
            #[allow(unused_variables)]
            Self::Paid(event) => {
                ::core::option::Option::Some(
                    ::jetstream_handlers::__private::ToString::to_string(&event.order),
                )
            }
        }
    }
    fn version(&self) -> ::core::option::Option<u32> {
        match self {
            Self::Created(event) => ::jetstream_handlers::Event::version(event),
            #[allow(unreachable_patterns)]
            _ => ::core::option::Option::None,
        }
    }
    fn event_codec(
        &self,
    ) -> ::core::option::Option<::jetstream_handlers::__private::DefaultCodec> {
        match self {
            Self::Created(_) => {
                <OrderCreated as ::jetstream_handlers::Event>::type_codec()
            }
            Self::Paid(_) => ::core::option::Option::None,
        }
    }
}
::jetstream_handlers::__declared_event!(
    OrderEvent; [< OrderCreated as ::jetstream_handlers::Event > ::PATTERN, OrderCreated,
    < OrderCreated as ::jetstream_handlers::Event > ::type_codec(), < OrderCreated as
    ::jetstream_handlers::Event > ::VERSION, ::core::option::Option::None],
    ["orders.{order}.paid", Payment, ::core::option::Option::None,
    ::core::option::Option::None, ::core::option::Option::None]
);
#[automatically_derived]
impl ::jetstream_handlers::__private::Serialize for OrderEvent {
    fn serialize<__S: ::jetstream_handlers::__private::Serializer>(
        &self,
        serializer: __S,
    ) -> ::core::result::Result<__S::Ok, __S::Error> {
        match self {
            Self::Created(event) => {
                ::jetstream_handlers::__private::Serialize::serialize(event, serializer)
            }
            Self::Paid(event) => {
                ::jetstream_handlers::__private::Serialize::serialize(event, serializer)
            }
        }
    }
}
#[automatically_derived]
impl ::jetstream_handlers::FromMessage for OrderEvent {
    fn from_message(
        message: &::jetstream_handlers::Message,
        context: &::jetstream_handlers::Context,
    ) -> ::core::result::Result<Self, ::jetstream_handlers::Rejection> {
        if ::jetstream_handlers::__private::has_pattern(
            message,
            context,
            <OrderCreated as ::jetstream_handlers::Event>::PATTERN,
        ) {
            return ::jetstream_handlers::__private::decoded(
                    message,
                    context,
                    <OrderCreated as ::jetstream_handlers::Event>::type_codec(),
                )
                .map(Self::Created);
        }
        if ::jetstream_handlers::__private::has_pattern(
            message,
            context,
            "orders.{order}.paid",
        ) {
            return ::jetstream_handlers::__private::decoded(
                    message,
                    context,
                    ::core::option::Option::None,
                )
                .map(Self::Paid);
        }
        ::core::result::Result::Err(
            ::jetstream_handlers::__private::unknown_subject(
                message,
                context,
                <Self as ::jetstream_handlers::Event>::PATTERNS,
            ),
        )
    }
    fn needs_content() -> bool {
        true
    }
}
