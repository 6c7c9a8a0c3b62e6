// The expansion of:
//
// #[subscriber(subject = "ledger.>", queue = "ledger", ordered, ack_every = 50, single_instance)]
// async fn book(entry: Entry) -> HandlerResult {
//     entry.book().await
// }

async fn book(entry: Entry) -> HandlerResult {
    entry.book().await
}
/// Names the handler `book` for `Broker::include`.
struct book {}
#[allow(deprecated)]
const _: () = {
    #[allow(unused_imports)]
    use ::jetstream_handlers::__private::via::{
        First as _, FirstOfBytes as _, Second as _, Third as _,
    };
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "book"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        description: "",
        plan: || ::jetstream_handlers::__private::Plan {
            ordered: true,
            ack_every: ::core::option::Option::Some(50),
            single_instance: true,
            ..::jetstream_handlers::__private::Plan::new("ledger.>", "ledger")
        },
        call: |slot, delivery, context| {
            let (message, context) = (
                ::core::clone::Clone::clone(delivery.single()),
                ::core::clone::Clone::clone(context),
            );
            slot.run(async move {
                let argument0 = match ::jetstream_handlers::__private::extract::<
                    Entry,
                    _,
                >(
                    &message,
                    &context,
                    (&&&&::jetstream_handlers::__private::Parameter::<Entry>::NEW)
                        .__jetstream_handlers_via(),
                ) {
                    ::core::result::Result::Ok(argument) => argument,
                    ::core::result::Result::Err(rejection) => {
                        return ::jetstream_handlers::__private::rejected(rejection);
                    }
                };
                ::jetstream_handlers::__private::outcome::<
                    HandlerResult,
                >(book(argument0).await)
            });
        },
        check: |context, problems| {
            let body = ::jetstream_handlers::__private::Body::UNREAD;
            let body = ::jetstream_handlers::__private::check::<
                Entry,
                _,
                _,
            >(
                context,
                problems,
                (&&&&::jetstream_handlers::__private::Parameter::<Entry>::NEW)
                    .__jetstream_handlers_via(),
                body,
            );
            ::jetstream_handlers::__received!(problems, Entry);
            let _ = body;
            ::jetstream_handlers::__private::declare::<HandlerResult>(problems);
        },
        layer: ::core::option::Option::None,
    };
    impl ::jetstream_handlers::__private::Subscriber for book {
        fn registration() -> &'static ::jetstream_handlers::__private::Registration {
            &__JETSTREAM_HANDLERS_REGISTRATION
        }
    }
    ::jetstream_handlers::__private::inventory::submit! {
        ::jetstream_handlers::__private::Entry(& __JETSTREAM_HANDLERS_REGISTRATION)
    }
};
