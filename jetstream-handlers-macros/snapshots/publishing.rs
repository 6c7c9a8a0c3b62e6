// The expansion of:
//
// #[subscriber(subject = "orders.created", queue = "confirmer", publish = "orders.confirmed")]
// async fn confirm(order: Order) -> HandlerResult<Option<Confirmation>> {
//     Ok(order.confirmation())
// }

async fn confirm(order: Order) -> HandlerResult<Option<Confirmation>> {
    Ok(order.confirmation())
}
/// Names the handler `confirm` for `Broker::include`.
struct confirm {}
#[allow(deprecated)]
const _: () = {
    #[allow(unused_imports)]
    use ::jetstream_handlers::__private::via::{
        First as _, FirstOfBytes as _, Second as _, Third as _,
    };
    #[allow(unused_imports)]
    use ::jetstream_handlers::__private::returned::{
        PublishesNothing as _, PublishesOutputs as _, PublishesResult as _,
        PublishesValue as _, PublishesValues as _,
    };
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "confirm"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        description: "",
        plan: || ::jetstream_handlers::__private::Plan {
            publish: ::core::option::Option::Some(
                ::jetstream_handlers::__private::Cow::Borrowed("orders.confirmed"),
            ),
            ..::jetstream_handlers::__private::Plan::new("orders.created", "confirmer")
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
                let returned = confirm(argument0).await;
                let via = (&&&&&::jetstream_handlers::__private::Returned::of(&returned))
                    .__jetstream_handlers_published();
                ::jetstream_handlers::__private::published::<
                    HandlerResult<Option<Confirmation>>,
                    _,
                >(returned, via)
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
            ::jetstream_handlers::__private::declare_published::<
                HandlerResult<Option<Confirmation>>,
                _,
            >(
                problems,
                (&&&&&::jetstream_handlers::__private::Returned::<
                    HandlerResult<Option<Confirmation>>,
                >::NEW)
                    .__jetstream_handlers_published(),
            );
            ::jetstream_handlers::__published!(
                problems, HandlerResult < Option < Confirmation > >
            );
        },
        layer: ::core::option::Option::None,
    };
    impl ::jetstream_handlers::__private::Subscriber for confirm {
        fn registration() -> &'static ::jetstream_handlers::__private::Registration {
            &__JETSTREAM_HANDLERS_REGISTRATION
        }
    }
    ::jetstream_handlers::__private::inventory::submit! {
        ::jetstream_handlers::__private::Entry(& __JETSTREAM_HANDLERS_REGISTRATION)
    }
};
