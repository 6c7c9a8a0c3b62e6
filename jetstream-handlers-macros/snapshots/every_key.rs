// The expansion of:
//
// #[subscriber(
//     subject = "orders.*.created",
//     queue = "order-processor",
//     stream = "ORDERS",
//     concurrency = 4,
//     batch_size = 100,
//     ack_wait = "30s",
//     timeout = "1m30s",
//     max_deliver = 5,
//     backoff = { initial = "1s", factor = 1.5, max = "2m" },
//     dead_letter = "dlq.orders",
//     ack = "confirmed",
//     group = "billing",
//     deliver = "last_per_subject",
//     manage = "bind",
// )]
// /// Ships what was ordered.
// #[tracing::instrument(skip_all)]
// pub(crate) async fn ship(State(db): State<Db>, OrderView { id, .. }: OrderView<'_>) -> Result<(), impl Error> {
//     db.ship(id).await
// }

/// Ships what was ordered.
#[tracing::instrument(skip_all)]
pub(crate) async fn ship(
    State(db): State<Db>,
    OrderView { id, .. }: OrderView<'_>,
) -> Result<(), impl Error> {
    db.ship(id).await
}
/// Names the handler `ship` for `Broker::include`.
pub(crate) struct ship {}
#[allow(deprecated)]
const _: () = {
    #[allow(unused_imports)]
    use ::jetstream_handlers::__private::via::{
        First as _, FirstOfBytes as _, Second as _, Third as _,
    };
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "ship"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        description: "Ships what was ordered.",
        plan: || ::jetstream_handlers::__private::Plan {
            stream: ::core::option::Option::Some(
                ::jetstream_handlers::__private::Cow::Borrowed("ORDERS"),
            ),
            concurrency: ::core::option::Option::Some(4),
            batch_size: ::core::option::Option::Some(100),
            ack_wait: ::core::option::Option::Some(
                ::core::time::Duration::from_millis(30000u64),
            ),
            timeout: ::core::option::Option::Some(
                ::core::time::Duration::from_millis(90000u64),
            ),
            max_deliver: ::core::option::Option::Some(5),
            backoff: ::core::option::Option::Some(::jetstream_handlers::__private::Backoff::Exponential {
                initial: ::core::time::Duration::from_millis(1000u64),
                factor: 1.5f64,
                max: ::core::time::Duration::from_millis(120000u64),
            }),
            dead_letter: ::core::option::Option::Some(
                ::jetstream_handlers::__private::DeadLetter::Subject(
                    ::jetstream_handlers::__private::Cow::Borrowed("dlq.orders"),
                ),
            ),
            ack: ::jetstream_handlers::__private::Ack::Confirmed,
            group: ::core::option::Option::Some(
                ::jetstream_handlers::__private::Cow::Borrowed("billing"),
            ),
            deliver: ::jetstream_handlers::__private::Deliver::LastPerSubject,
            manage: ::core::option::Option::Some(
                ::jetstream_handlers::__private::Manage::Bind,
            ),
            ..::jetstream_handlers::__private::Plan::new(
                "orders.*.created",
                "order-processor",
            )
        },
        call: |slot, delivery, context| {
            let (message, context) = (
                ::core::clone::Clone::clone(delivery.single()),
                ::core::clone::Clone::clone(context),
            );
            slot.run(async move {
                let argument0 = match ::jetstream_handlers::__private::extract::<
                    State<Db>,
                    _,
                >(
                    &message,
                    &context,
                    (&&&&::jetstream_handlers::__private::Parameter::<State<Db>>::NEW)
                        .__jetstream_handlers_via(),
                ) {
                    ::core::result::Result::Ok(argument) => argument,
                    ::core::result::Result::Err(rejection) => {
                        return ::jetstream_handlers::__private::rejected(rejection);
                    }
                };
                let argument1 = match ::jetstream_handlers::__private::extract::<
                    OrderView<'_>,
                    _,
                >(
                    &message,
                    &context,
                    (&&&&::jetstream_handlers::__private::Parameter::<
                        OrderView<'_>,
                    >::NEW)
                        .__jetstream_handlers_via(),
                ) {
                    ::core::result::Result::Ok(argument) => argument,
                    ::core::result::Result::Err(rejection) => {
                        return ::jetstream_handlers::__private::rejected(rejection);
                    }
                };
                ::jetstream_handlers::__private::outcome::<
                    _,
                >(ship(argument0, argument1).await)
            });
        },
        check: |context, problems| {
            let body = ::jetstream_handlers::__private::Body::UNREAD;
            let body = ::jetstream_handlers::__private::check::<
                State<Db>,
                _,
                _,
            >(
                context,
                problems,
                (&&&&::jetstream_handlers::__private::Parameter::<State<Db>>::NEW)
                    .__jetstream_handlers_via(),
                body,
            );
            ::jetstream_handlers::__received!(problems, State < Db >);
            let body = ::jetstream_handlers::__private::check::<
                OrderView<'_>,
                _,
                _,
            >(
                context,
                problems,
                (&&&&::jetstream_handlers::__private::Parameter::<OrderView<'_>>::NEW)
                    .__jetstream_handlers_via(),
                body,
            );
            ::jetstream_handlers::__received!(problems, OrderView < '_ >);
            let _ = body;
        },
        layer: ::core::option::Option::None,
    };
    impl ::jetstream_handlers::__private::Subscriber for ship {
        fn registration() -> &'static ::jetstream_handlers::__private::Registration {
            &__JETSTREAM_HANDLERS_REGISTRATION
        }
    }
    ::jetstream_handlers::__private::inventory::submit! {
        ::jetstream_handlers::__private::Entry(& __JETSTREAM_HANDLERS_REGISTRATION)
    }
};
