// The expansion of:
//
// #[subscriber(subject = "orders.{region}.created", queue = "regions", key = "{region}", concurrency = 8)]
// async fn count(order: Order) {}

async fn count(order: Order) {}
/// Names the handler `count` for `Broker::include`.
struct count {}
#[allow(deprecated)]
const _: () = {
    #[allow(unused_imports)]
    use ::jetstream_handlers::__private::via::{
        First as _, FirstOfBytes as _, Second as _, Third as _,
    };
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "count"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        description: "",
        plan: || ::jetstream_handlers::__private::Plan {
            key: ::core::option::Option::Some(
                ::jetstream_handlers::__private::Key::from("{region}"),
            ),
            concurrency: ::core::option::Option::Some(8),
            ..::jetstream_handlers::__private::Plan::new(
                "orders.{region}.created",
                "regions",
            )
        },
        call: |slot, delivery, context| {
            let (message, context) = (
                ::core::clone::Clone::clone(delivery.single()),
                ::core::clone::Clone::clone(context),
            );
            slot.run(async move {
                let argument0 = match ::jetstream_handlers::__private::extract::<
                    Order,
                    _,
                >(
                    &message,
                    &context,
                    (&&&&::jetstream_handlers::__private::Parameter::<Order>::NEW)
                        .__jetstream_handlers_via(),
                ) {
                    ::core::result::Result::Ok(argument) => argument,
                    ::core::result::Result::Err(rejection) => {
                        return ::jetstream_handlers::__private::rejected(rejection);
                    }
                };
                ::jetstream_handlers::__private::outcome::<()>(count(argument0).await)
            });
        },
        check: |context, problems| {
            let body = ::jetstream_handlers::__private::Body::UNREAD;
            let body = ::jetstream_handlers::__private::check::<
                Order,
                _,
                _,
            >(
                context,
                problems,
                (&&&&::jetstream_handlers::__private::Parameter::<Order>::NEW)
                    .__jetstream_handlers_via(),
                body,
            );
            ::jetstream_handlers::__received!(problems, Order);
            let _ = body;
        },
        layer: ::core::option::Option::None,
    };
    impl ::jetstream_handlers::__private::Subscriber for count {
        fn registration() -> &'static ::jetstream_handlers::__private::Registration {
            &__JETSTREAM_HANDLERS_REGISTRATION
        }
    }
    ::jetstream_handlers::__private::inventory::submit! {
        ::jetstream_handlers::__private::Entry(& __JETSTREAM_HANDLERS_REGISTRATION)
    }
};
