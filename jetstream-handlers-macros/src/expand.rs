//! What the attribute becomes.
//!
//! The contract with the library is here: every path into it begins `::jetstream_handlers::__private`.
//! Tokens of ours carry the span `mixed_site`, so that our locals never meet the user's names, and lints on the user's code leave them alone.

use std::time::Duration;

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote_spanned};
use syn::spanned::Spanned as _;

use crate::attribute;
use crate::errors::Errors;
use crate::signature::{self, Function};
use crate::valid::{self, Ack, Backoff, DeadLetter, Plan};

/// The whole attribute: the item as it was written, and beside it the registration or the mistakes.
pub(crate) fn subscriber(attribute: TokenStream, item: &TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let entries = attribute::parse(attribute, &mut errors);
    let function = signature::parse(item, &mut errors);
    let plan = valid::plan(&entries, function.as_ref(), &mut errors);
    if let Some(function) = &function {
        function.check(&mut errors);
    }
    let beside = match &function {
        Some(function) if errors.is_empty() => registered(function, &plan),
        Some(function) if function.takes_company() => unregistered(function),
        _ => TokenStream::new(),
    };
    let errors = errors.into_compile_errors();
    quote_spanned!(Span::mixed_site()=> #item #errors #beside)
}

/// The type that names the handler, and its registration.
fn registered(function: &Function, plan: &Plan) -> TokenStream {
    let marker = marker(function);
    let name = marker_name(function);
    let registration = registration(function, plan);
    quote_spanned! {Span::mixed_site()=>
        #marker

        // A handler or a payload may be deprecated, and our use of it is not news.
        #[allow(deprecated)]
        const _: () = {
            #registration

            impl ::jetstream_handlers::__private::Subscriber for #name {
                fn registration() -> &'static ::jetstream_handlers::__private::Registration {
                    &__JETSTREAM_HANDLERS_REGISTRATION
                }
            }

            ::jetstream_handlers::__private::inventory::submit! {
                ::jetstream_handlers::__private::Entry(&__JETSTREAM_HANDLERS_REGISTRATION)
            }
        };
    }
}

/// Stands in for a refused handler, so that code that names it has no errors of its own.
fn unregistered(function: &Function) -> TokenStream {
    let marker = marker(function);
    let name = marker_name(function);
    quote_spanned! {Span::mixed_site()=>
        #marker

        impl ::jetstream_handlers::__private::Subscriber for #name {
            fn registration() -> &'static ::jetstream_handlers::__private::Registration {
                ::core::unreachable!()
            }
        }
    }
}

/// The type of the function's name. Braces keep it out of the namespace where functions are.
fn marker(function: &Function) -> TokenStream {
    let doc = format!(" Names the handler `{}` for `Broker::include`.", function.plain_name());
    let visibility = as_ours(function.visibility.to_token_stream());
    let name = marker_name(function);
    quote_spanned! {Span::mixed_site()=>
        #[doc = #doc]
        #visibility struct #name {}
    }
}

fn marker_name(function: &Function) -> Ident {
    let mut name = function.name().clone();
    name.set_span(ours_at(name.span()));
    name
}

/// The closure that extracts every argument from a message and calls the user's function, to its end.
fn call(function: &Function) -> TokenStream {
    let here = Span::mixed_site();
    let name = function.name();
    let at_name = ours_at(name.span());
    let arguments: Vec<Ident> =
        (0..function.parameters().len()).map(|position| format_ident!("argument{position}", span = here)).collect();
    let extractions = function.parameters().into_iter().zip(&arguments).map(|(parameter, argument)| {
        // What a message cannot give for long enough is reported at the type that asks for it.
        let at_type = ours_at(parameter.span());
        let extracted = quote_spanned! {at_type=>
            ::jetstream_handlers::__private::extract::<#parameter, _>(&message, &context)
        };
        quote_spanned! {here=>
            let #argument = match #extracted {
                ::core::result::Result::Ok(argument) => argument,
                ::core::result::Result::Err(rejection) => {
                    return ::jetstream_handlers::__private::rejected(rejection);
                }
            };
        }
    });
    let output = function.output();
    let awaited = function.is_async().then(|| quote_spanned!(here=> .await));
    let outcome = quote_spanned! {here=>
        ::jetstream_handlers::__private::outcome::<#output>(#name(#(#arguments),*) #awaited)
    };
    // The span is where the compiler points when the future is not `Send`.
    let run = quote_spanned! {at_name=>
        slot.run(async move { #(#extractions)* #outcome });
    };
    quote_spanned! {here=>
        |slot, message, context| {
            let (message, context) = (::core::clone::Clone::clone(message), ::core::clone::Clone::clone(context));
            #run
        }
    }
}

/// The closure that looks at start-up whether every parameter can be made.
fn check(function: &Function) -> TokenStream {
    let here = Span::mixed_site();
    let parameters = function.parameters();
    quote_spanned! {here=>
        |context, problems| {
            #(::jetstream_handlers::__private::check::<#parameters, _>(context, problems);)*
        }
    }
}

/// The static that is registered.
///
/// Its two closures name every parameter's type once each.
/// They stand in one initializer, because the compiler reports a wrong type once for each body that it checks.
fn registration(function: &Function, plan: &Plan) -> TokenStream {
    let name = function.plain_name();
    let plan = static_plan(plan);
    let call = call(function);
    let check = check(function);
    quote_spanned! {Span::mixed_site()=>
        static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration =
            ::jetstream_handlers::__private::Registration {
                name: ::core::concat!(::core::module_path!(), "::", #name),
                location: ::core::concat!(::core::file!(), ":", ::core::line!()),
                plan: #plan,
                call: #call,
                check: #check,
            };
    }
}

fn static_plan(plan: &Plan) -> TokenStream {
    let here = Span::mixed_site();
    let subject = &plan.subject;
    let queue = &plan.queue;
    let stream = option(plan.stream.as_ref());
    let concurrency = option(plan.concurrency.map(|number| number as usize));
    let blocking = plan.blocking;
    let threads = option(plan.threads.map(|number| number as usize));
    let batch_size = option(plan.batch_size.map(|number| number as usize));
    let ack_wait = option(plan.ack_wait.map(duration));
    let timeout = option(plan.timeout.map(duration));
    let max_deliver = option(plan.max_deliver);
    let backoff = option(plan.backoff.as_ref().map(backoff));
    let dead_letter = option(plan.dead_letter.as_ref().map(dead_letter));
    let key = option(plan.key.as_ref());
    let ordered = plan.ordered;
    let ack_every = option(plan.ack_every.map(|number| number as usize));
    let replicas = option(plan.replicas);
    let publish = option(plan.publish.as_ref());
    let codec = option(plan.codec.as_ref());
    let ack = match plan.ack {
        Ack::Sent => quote_spanned!(here=> ::jetstream_handlers::__private::Ack::Sent),
        Ack::Confirmed => quote_spanned!(here=> ::jetstream_handlers::__private::Ack::Confirmed),
    };
    let group = option(plan.group.as_ref());
    quote_spanned! {here=>
        ::jetstream_handlers::__private::StaticPlan {
            subject: #subject,
            queue: #queue,
            stream: #stream,
            concurrency: #concurrency,
            blocking: #blocking,
            threads: #threads,
            batch_size: #batch_size,
            ack_wait: #ack_wait,
            timeout: #timeout,
            max_deliver: #max_deliver,
            backoff: #backoff,
            dead_letter: #dead_letter,
            key: #key,
            ordered: #ordered,
            ack_every: #ack_every,
            replicas: #replicas,
            publish: #publish,
            codec: #codec,
            ack: #ack,
            group: #group,
        }
    }
}

fn option(value: Option<impl ToTokens>) -> TokenStream {
    match value {
        Some(value) => {
            quote_spanned!(Span::mixed_site()=> ::core::option::Option::Some(#value))
        }
        None => quote_spanned!(Span::mixed_site()=> ::core::option::Option::None),
    }
}

fn duration(duration: Duration) -> TokenStream {
    let millis = u64::try_from(duration.as_millis()).expect("durations are bounded when parsed");
    quote_spanned!(Span::mixed_site()=> ::core::time::Duration::from_millis(#millis))
}

fn backoff(backoff: &Backoff) -> TokenStream {
    let here = Span::mixed_site();
    match backoff {
        Backoff::Steps(steps) => {
            let steps = steps.iter().copied().map(duration);
            quote_spanned!(here=> ::jetstream_handlers::__private::Backoff::Steps(::jetstream_handlers::__private::Cow::Borrowed(&[#(#steps),*])))
        }
        Backoff::Exponential { initial, factor, max } => {
            let (initial, max) = (duration(*initial), duration(*max));
            quote_spanned! {here=>
                ::jetstream_handlers::__private::Backoff::Exponential {
                    initial: #initial,
                    factor: #factor,
                    max: #max,
                }
            }
        }
    }
}

fn dead_letter(dead_letter: &DeadLetter) -> TokenStream {
    let here = Span::mixed_site();
    match dead_letter {
        DeadLetter::Subject(subject) => {
            quote_spanned!(here=> ::jetstream_handlers::__private::DeadLetter::Subject(#subject))
        }
        DeadLetter::Off => quote_spanned!(here=> ::jetstream_handlers::__private::DeadLetter::Off),
    }
}

/// A span of ours that the compiler shows at `place`.
fn ours_at(place: Span) -> Span {
    Span::mixed_site().located_at(place)
}

/// The user's tokens with spans of ours, so that lints take the code for ours.
fn as_ours(tokens: TokenStream) -> TokenStream {
    tokens
        .into_iter()
        .map(|mut token| {
            if let TokenTree::Group(group) = &token {
                let mut ours = proc_macro2::Group::new(group.delimiter(), as_ours(group.stream()));
                ours.set_span(group.span());
                token = ours.into();
            }
            token.set_span(ours_at(token.span()));
            token
        })
        .collect()
}
