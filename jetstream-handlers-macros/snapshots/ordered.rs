// What the attribute makes of:
//
// #[subscriber(subject = "ledger.>", queue = "ledger", ordered, ack_every = 50, replicas = 1)]
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
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "book"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        plan: ::jetstream_handlers::__private::StaticPlan {
            subject: "ledger.>",
            queue: "ledger",
            stream: ::core::option::Option::None,
            concurrency: ::core::option::Option::None,
            blocking: false,
            threads: ::core::option::Option::None,
            batch_size: ::core::option::Option::None,
            ack_wait: ::core::option::Option::None,
            timeout: ::core::option::Option::None,
            max_deliver: ::core::option::Option::None,
            backoff: ::core::option::Option::None,
            dead_letter: ::core::option::Option::None,
            key: ::core::option::Option::None,
            ordered: true,
            ack_every: ::core::option::Option::Some(50usize),
            replicas: ::core::option::Option::Some(1u32),
            publish: ::core::option::Option::None,
            codec: ::core::option::Option::None,
            ack: ::jetstream_handlers::__private::Ack::Sent,
            group: ::core::option::Option::None,
        },
        call: |slot, message, context| {
            let (message, context) = (
                ::core::clone::Clone::clone(message),
                ::core::clone::Clone::clone(context),
            );
            slot.run(async move {
                let argument0 = match ::jetstream_handlers::__private::extract::<
                    Entry,
                    _,
                >(&message, &context) {
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
            ::jetstream_handlers::__private::check::<Entry, _>(context, problems);
        },
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
