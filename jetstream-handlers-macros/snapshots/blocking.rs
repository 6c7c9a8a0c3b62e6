// What the attribute makes of:
//
// #[subscriber(subject = "images.uploaded", queue = "thumbnails", threads = 4)]
// fn thumbnail(image: Image, State(sizes): State<Sizes>) -> HandlerResult {
//     image.resize(&sizes)
// }

fn thumbnail(image: Image, State(sizes): State<Sizes>) -> HandlerResult {
    image.resize(&sizes)
}
/// Names the handler `thumbnail` for `Broker::include`.
struct thumbnail {}
#[allow(deprecated)]
const _: () = {
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "thumbnail"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        plan: ::jetstream_handlers::__private::StaticPlan {
            subject: "images.uploaded",
            queue: "thumbnails",
            stream: ::core::option::Option::None,
            concurrency: ::core::option::Option::None,
            blocking: false,
            threads: ::core::option::Option::Some(4usize),
            batch_size: ::core::option::Option::None,
            ack_wait: ::core::option::Option::None,
            timeout: ::core::option::Option::None,
            max_deliver: ::core::option::Option::None,
            backoff: ::core::option::Option::None,
            dead_letter: ::core::option::Option::None,
            key: ::core::option::Option::None,
            ordered: false,
            ack_every: ::core::option::Option::None,
            replicas: ::core::option::Option::None,
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
                    Image,
                    _,
                >(&message, &context) {
                    ::core::result::Result::Ok(argument) => argument,
                    ::core::result::Result::Err(rejection) => {
                        return ::jetstream_handlers::__private::rejected(rejection);
                    }
                };
                let argument1 = match ::jetstream_handlers::__private::extract::<
                    State<Sizes>,
                    _,
                >(&message, &context) {
                    ::core::result::Result::Ok(argument) => argument,
                    ::core::result::Result::Err(rejection) => {
                        return ::jetstream_handlers::__private::rejected(rejection);
                    }
                };
                ::jetstream_handlers::__private::outcome::<
                    HandlerResult,
                >(thumbnail(argument0, argument1))
            });
        },
        check: |context, problems| {
            ::jetstream_handlers::__private::check::<Image, _>(context, problems);
            ::jetstream_handlers::__private::check::<State<Sizes>, _>(context, problems);
        },
    };
    impl ::jetstream_handlers::__private::Subscriber for thumbnail {
        fn registration() -> &'static ::jetstream_handlers::__private::Registration {
            &__JETSTREAM_HANDLERS_REGISTRATION
        }
    }
    ::jetstream_handlers::__private::inventory::submit! {
        ::jetstream_handlers::__private::Entry(& __JETSTREAM_HANDLERS_REGISTRATION)
    }
};
