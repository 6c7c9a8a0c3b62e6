// The expansion of:
//
// #[subscriber(
//     subject = [CREATED, "orders.{region}.paid"],
//     queue = names::BILLING,
//     stream = env("STREAM"),
//     concurrency = env("WORKERS", 4),
//     ack_wait = env("ACK_WAIT", "1m30s"),
//     backoff = env("BACKOFF", "1s, 1m30s"),
// )]
// async fn bill(Path(region): Path<Option<String>>) {}

async fn bill(Path(region): Path<Option<String>>) {}
/// Names the handler `bill` for `Broker::include`.
struct bill {}
#[allow(deprecated)]
const _: () = {
    #[allow(unused_imports)]
    use ::jetstream_handlers::__private::via::{
        First as _, FirstOfBytes as _, Second as _, Third as _,
    };
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "bill"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        description: "",
        plan: || {
            ::jetstream_handlers::__private::Plan {
                ..::jetstream_handlers::__private::Plan::new(
                    [CREATED, "orders.{region}.paid"],
                    {
                        let text: &'static str = names::BILLING;
                        text
                    },
                )
            }
                .with_variable("stream", "STREAM", ::core::option::Option::None)
                .with_variable(
                    "concurrency",
                    "WORKERS",
                    ::core::option::Option::Some("4"),
                )
                .with_variable(
                    "ack_wait",
                    "ACK_WAIT",
                    ::core::option::Option::Some("90000ms"),
                )
                .with_variable(
                    "backoff",
                    "BACKOFF",
                    ::core::option::Option::Some("1000ms, 90000ms"),
                )
        },
        call: |slot, delivery, context| {
            let (message, context) = (
                ::core::clone::Clone::clone(delivery.single()),
                ::core::clone::Clone::clone(context),
            );
            slot.run(async move {
                let argument0 = match ::jetstream_handlers::__private::extract::<
                    Path<Option<String>>,
                    _,
                >(
                    &message,
                    &context,
                    (&&&&::jetstream_handlers::__private::Parameter::<
                        Path<Option<String>>,
                    >::NEW)
                        .__jetstream_handlers_via(),
                ) {
                    ::core::result::Result::Ok(argument) => argument,
                    ::core::result::Result::Err(rejection) => {
                        return ::jetstream_handlers::__private::rejected(rejection);
                    }
                };
                ::jetstream_handlers::__private::outcome::<()>(bill(argument0).await)
            });
        },
        check: |context, problems| {
            let body = ::jetstream_handlers::__private::Body::UNREAD;
            let body = ::jetstream_handlers::__private::check::<
                Path<Option<String>>,
                _,
                _,
            >(
                context,
                problems,
                (&&&&::jetstream_handlers::__private::Parameter::<
                    Path<Option<String>>,
                >::NEW)
                    .__jetstream_handlers_via(),
                body,
            );
            ::jetstream_handlers::__received!(problems, Path < Option < String > >);
            let _ = body;
        },
        layer: ::core::option::Option::None,
    };
    impl ::jetstream_handlers::__private::Subscriber for bill {
        fn registration() -> &'static ::jetstream_handlers::__private::Registration {
            &__JETSTREAM_HANDLERS_REGISTRATION
        }
    }
    ::jetstream_handlers::__private::inventory::submit! {
        ::jetstream_handlers::__private::Entry(& __JETSTREAM_HANDLERS_REGISTRATION)
    }
};
