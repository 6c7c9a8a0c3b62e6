//! The expansion of the attribute.
//!
//! It uses the library only through paths that begin with `::jetstream_handlers::__private`.
//! Generated tokens carry the span `mixed_site`, so that their local variables cannot collide with the user's names and
//! lints for the user's code ignore them.

use std::time::Duration;

use proc_macro2::{Ident, Literal, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote_spanned};
use syn::Type;
use syn::spanned::Spanned as _;

use crate::attribute;
use crate::errors::Errors;
use crate::rules::{Accepts, Key, Setting};
use crate::signature::{self, Function};
use crate::valid::{self, REQUIRED, Settings};
use crate::value::{Given, generated_at};

/// The key that is part of the registration, and not of the plan.
const LAYER: &str = "layer";

/// Expands the attribute to the item as it was written, followed by its registration or by the mistakes.
pub(crate) fn subscriber(attribute: TokenStream, item: &TokenStream) -> TokenStream {
    handler(attribute, item, Errors::default())
}

/// Expands the attribute as [`subscriber`] does, with these mistakes of it.
pub(crate) fn handler(attribute: TokenStream, item: &TokenStream, mut errors: Errors) -> TokenStream {
    let attribute = attribute::parse(attribute, &mut errors);
    let function = signature::parse(item, &mut errors);
    let settings = valid::settings(&attribute, function.as_ref(), &mut errors);
    if let Some(function) = &function {
        function.check(&mut errors);
    }
    let added = match &function {
        Some(function) if errors.is_empty() => registered(function, &settings),
        Some(function) if function.is_free() => unregistered(function),
        _ => TokenStream::new(),
    };
    let errors = errors.into_compile_errors();
    quote_spanned!(Span::mixed_site()=> #item #errors #added)
}

/// Returns the type that names the handler, and its registration.
fn registered(function: &Function, settings: &Settings) -> TokenStream {
    let marker = marker(function);
    let name = marker_name(function);
    let registration = registration(function, settings);
    quote_spanned! {Span::mixed_site()=>
        #marker

        // The compiler already warns about the user's own use of a deprecated handler or payload.
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

/// Returns a substitute for a refused handler, so that code that names it has no further errors.
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

/// Returns the type with the name of the function; its braces keep it out of the namespace of functions.
fn marker(function: &Function) -> TokenStream {
    let doc = format!(" Names the handler `{}` for `Broker::include`.", function.plain_name());
    let visibility = as_generated(function.visibility.to_token_stream());
    let name = marker_name(function);
    quote_spanned! {Span::mixed_site()=>
        #[doc = #doc]
        #visibility struct #name {}
    }
}

fn marker_name(function: &Function) -> Ident {
    let mut name = function.name().clone();
    name.set_span(generated_at(name.span()));
    name
}

/// Returns `true` if what the function returns is published to the subject of the key `publish`.
fn publishes(settings: &Settings) -> bool {
    settings.iter().any(|(key, _)| key.name == "publish")
}

/// Returns the expression that converts what the function has returned into the outcome of the call.
fn outcome(function: &Function, settings: &Settings, called: &TokenStream) -> TokenStream {
    let here = Span::mixed_site();
    let output = function.output();
    let is_batch = function.batch().is_some();
    let elements = is_batch.then(|| quote_spanned!(here=> , &elements));
    if !publishes(settings) {
        let outcome = Ident::new(if is_batch { "outcome_of_batch" } else { "outcome" }, here);
        return quote_spanned!(here=> ::jetstream_handlers::__private::#outcome::<#output>(#called #elements));
    }
    // A return type without a value is reported at this span.
    let at_output = generated_at(output.span());
    let of = Ident::new(if is_batch { "of_element" } else { "of" }, at_output);
    let via = quote_spanned! {at_output=>
        (&&&&&::jetstream_handlers::__private::Returned::#of(&returned)).__jetstream_handlers_published()
    };
    let published = Ident::new(if is_batch { "published_elements" } else { "published" }, here);
    quote_spanned! {here=>
        let returned = #called;
        let via = #via;
        ::jetstream_handlers::__private::#published::<#output, _>(returned, via #elements)
    }
}

/// Returns the closure that makes every argument from the messages of a call, and calls the function.
fn call(function: &Function, settings: &Settings) -> TokenStream {
    let here = Span::mixed_site();
    let name = function.name();
    let at_name = generated_at(name.span());
    let arguments: Vec<Ident> =
        (0..function.parameters().len()).map(|position| format_ident!("argument{position}", span = here)).collect();
    let awaited = function.is_async().then(|| quote_spanned!(here=> .await));
    let outcome = outcome(function, settings, &quote_spanned!(here=> #name(#(#arguments),*) #awaited));
    if function.batch().is_some() {
        // Its arguments borrow from no message.
        let extractions = extractions(
            function,
            &arguments,
            &quote_spanned!(here=> extract_from),
            &quote_spanned!(here=> delivery, context),
            |rejected| quote_spanned!(here=> slot.run(async move { #rejected })),
        );
        let run = quote_spanned! {at_name=> slot.run(async move { #outcome }); };
        return quote_spanned! {here=>
            |slot, delivery, context| {
                #extractions
                let elements = delivery.elements();
                #run
            }
        };
    }
    let extractions = extractions(
        function,
        &arguments,
        &quote_spanned!(here=> extract),
        &quote_spanned!(here=> &message, &context),
        |rejected| rejected,
    );
    // A future that is not `Send` is reported at this span.
    let run = quote_spanned! {at_name=>
        slot.run(async move { #extractions #outcome });
    };
    quote_spanned! {here=>
        |slot, delivery, context| {
            let (message, context) = (::core::clone::Clone::clone(delivery.single()), ::core::clone::Clone::clone(context));
            #run
        }
    }
}

/// Returns the statements that make the arguments by the function `extract`, whose first arguments are `from`.
fn extractions(
    function: &Function,
    arguments: &[Ident],
    extract: &TokenStream,
    from: &TokenStream,
    returned: impl Fn(TokenStream) -> TokenStream,
) -> TokenStream {
    let here = Span::mixed_site();
    let rejected = returned(quote_spanned!(here=> ::jetstream_handlers::__private::rejected(rejection)));
    let extractions = function.parameters().into_iter().zip(arguments).map(|(parameter, argument)| {
        // A problem of the parameter is reported at its type.
        let via = via(parameter);
        let extracted = quote_spanned! {generated_at(parameter.span())=>
            ::jetstream_handlers::__private::#extract::<#parameter, _>(#from, #via)
        };
        quote_spanned! {here=>
            let #argument = match #extracted {
                ::core::result::Result::Ok(argument) => argument,
                ::core::result::Result::Err(rejection) => {
                    return #rejected;
                }
            };
        }
    });
    quote_spanned!(here=> #(#extractions)*)
}

/// Returns the statement that states the outputs that are known before a call; none for an `impl Trait`.
fn declared(function: &Function, settings: &Settings) -> Option<TokenStream> {
    let here = Span::mixed_site();
    let output = function.named_output()?;
    let at_output = generated_at(output.span());
    let is_batch = function.batch().is_some();
    if !publishes(settings) {
        let declare = Ident::new(if is_batch { "declare_of_batch" } else { "declare" }, here);
        return Some(quote_spanned!(at_output=> ::jetstream_handlers::__private::#declare::<#output>(problems);));
    }
    // In the form for a batch, the macro takes the values apart itself, so that a wrong type is reported once less.
    let described = match is_batch {
        true => quote_spanned!(at_output=> ::jetstream_handlers::__published!(problems; #output)),
        false => quote_spanned!(at_output=> ::jetstream_handlers::__published!(problems, #output)),
    };
    let output = if is_batch {
        quote_spanned!(at_output=> <#output as ::jetstream_handlers::__private::IntoElements>::Element)
    } else {
        output
    };
    Some(quote_spanned! {at_output=>
        ::jetstream_handlers::__private::declare_published::<#output, _>(
            problems,
            (&&&&&::jetstream_handlers::__private::Returned::<#output>::NEW).__jetstream_handlers_published(),
        );
        #described;
    })
}

/// Returns the closure that checks at the start whether every parameter can be made.
fn check(function: &Function, settings: &Settings) -> TokenStream {
    let here = Span::mixed_site();
    let checks = function.parameters().into_iter().map(|parameter| {
        let at_type = generated_at(parameter.span());
        let via = via(parameter);
        quote_spanned! {at_type=>
            let body = ::jetstream_handlers::__private::check::<#parameter, _, _>(context, problems, #via, body);
            ::jetstream_handlers::__received!(problems, #parameter);
        }
    });
    let declared = declared(function, settings);
    quote_spanned! {here=>
        |context, problems| {
            let body = ::jetstream_handlers::__private::Body::UNREAD;
            #(#checks)*
            let _ = body;
            #declared
        }
    }
}

/// Returns the expression whose type is the marker of a parameter; `via` resolves to the first trait that applies.
fn via(parameter: &Type) -> TokenStream {
    quote_spanned! {generated_at(parameter.span())=>
        (&&&&::jetstream_handlers::__private::Parameter::<#parameter>::NEW).__jetstream_handlers_via()
    }
}

/// Returns the static that is registered.
///
/// Its closures are in one initializer, because the compiler reports a wrong type once for each body that names it.
fn registration(function: &Function, settings: &Settings) -> TokenStream {
    let (name, description) = (function.plain_name(), function.description());
    let plan = plan(settings);
    let call = call(function, settings);
    let published = publishes(settings).then(|| {
        quote_spanned! {Span::mixed_site()=>
            #[allow(unused_imports)] // which trait is used depends on the return type
            use ::jetstream_handlers::__private::returned::{
                PublishesNothing as _, PublishesOutputs as _, PublishesResult as _, PublishesValue as _,
                PublishesValues as _,
            };
        }
    });
    let check = check(function, settings);
    let layer = layer(settings);
    quote_spanned! {Span::mixed_site()=>
        // Without their names, which would hide types of the user with the same ones.
        #[allow(unused_imports)] // which traits are used depends on the parameters
        use ::jetstream_handlers::__private::via::{First as _, FirstOfBytes as _, Second as _, Third as _};
        #published

        static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration =
            ::jetstream_handlers::__private::Registration {
                name: ::core::concat!(::core::module_path!(), "::", #name),
                location: ::core::concat!(::core::file!(), ":", ::core::line!()),
                description: #description,
                plan: || #plan,
                call: #call,
                check: #check,
                layer: #layer,
            };
    }
}

/// Returns the layer around the handler.
fn layer(settings: &Settings) -> TokenStream {
    let layer = settings.iter().find_map(|(key, given)| match given {
        Given::Expression(layer) if key.name == LAYER => Some(layer),
        _ => None,
    });
    option(layer.map(|layer| {
        let here = generated_at(layer.span());
        quote_spanned!(here=> ::jetstream_handlers::__layer!(#layer))
    }))
}

/// Returns the plan: a field for each key that is present, and the defaults for all others.
fn plan(settings: &Settings) -> TokenStream {
    let here = Span::mixed_site();
    let required = REQUIRED.map(|name| match settings.iter().find(|(key, _)| key.name == name) {
        Some((key, given)) => required_value(key, given),
        _ => unreachable!("a missing `{name}` was reported"),
    });
    let optional = settings.iter().filter(|(key, _)| !REQUIRED.contains(&key.name) && key.name != LAYER);
    let fields = optional.filter_map(|(key, given)| {
        let field = Ident::new(key.name, here);
        let value = match given {
            Given::Literal(setting) => field_value(key, setting),
            Given::Expression(constant) => constant_value(key, constant),
            Given::Event(_) | Given::Variable { .. } => return None,
        };
        Some(quote_spanned!(here=> #field: #value))
    });
    let codec = settings.iter().find_map(|(_, given)| {
        let Given::Event(event) = given else { return None };
        let codec = of_event(event, "type_codec");
        Some(quote_spanned!(here=> event_codec: #codec()))
    });
    let fields: Vec<_> = fields.chain(codec).collect();
    let defaults = quote_spanned!(here=> ::jetstream_handlers::__private::Plan::new(#(#required),*));
    let plan = quote_spanned! {here=>
        ::jetstream_handlers::__private::Plan {
            #(#fields,)*
            ..#defaults
        }
    };
    let variables = settings.iter().filter_map(|(key, given)| match given {
        Given::Variable { name, default } => {
            let (key, default) = (key.name, option(default.as_ref().map(as_variable)));
            Some(quote_spanned!(here=> .with_variable(#key, #name, #default)))
        }
        _ => None,
    });
    quote_spanned!(here=> #plan #(#variables)*)
}

/// Returns the value of a required key as `Plan::new` takes it; that of a variable is set later.
fn required_value(key: &Key, given: &Given) -> TokenStream {
    match given {
        Given::Literal(Setting::Text(text)) => text.to_token_stream(),
        Given::Literal(Setting::Texts(texts)) => quote_spanned!(Span::mixed_site()=> [#(#texts),*]),
        Given::Expression(constant) if matches!(key.accepts, Accepts::Subjects) => constant.clone(),
        // So that the compiler's error for a constant of another type names both types.
        Given::Expression(constant) => {
            let here = generated_at(constant.span());
            quote_spanned!(here=> { let text: &'static str = #constant; text })
        }
        Given::Event(event) => of_event(event, "PATTERNS"),
        Given::Literal(_) | Given::Variable { .. } => "".to_token_stream(),
    }
}

/// Returns the path of an item of an event.
fn of_event(event: &Type, item: &str) -> TokenStream {
    let here = generated_at(event.span());
    let item = Ident::new(item, here);
    quote_spanned!(here=> <#event as ::jetstream_handlers::Event>::#item)
}

/// Returns the value of a field of the plan that is a constant.
fn constant_value(key: &Key, constant: &TokenStream) -> TokenStream {
    let here = Span::mixed_site();
    let text = borrowed(constant);
    match key.accepts {
        Accepts::SubjectOrOff => {
            option(Some(quote_spanned!(here=> ::jetstream_handlers::__private::DeadLetter::Subject(#text))))
        }
        Accepts::Key => option(Some(constant)),
        _ => option(Some(text)),
    }
}

/// Returns a setting as it would be written in an environment variable.
fn as_variable(setting: &Setting<'_>) -> String {
    match setting {
        Setting::Number(number) => number.to_string(),
        Setting::Duration(duration) => format!("{}ms", duration.as_millis()),
        Setting::Text(text) => text.to_string(),
        Setting::Steps(steps) => {
            steps.iter().map(|step| format!("{}ms", step.as_millis())).collect::<Vec<_>>().join(", ")
        }
        _ => String::new(),
    }
}

fn option(value: Option<impl ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote_spanned!(Span::mixed_site()=> ::core::option::Option::Some(#value)),
        None => quote_spanned!(Span::mixed_site()=> ::core::option::Option::None),
    }
}

/// Returns the value of a field of the plan; its type follows from what the key accepts.
fn field_value(key: &Key, setting: &Setting<'_>) -> TokenStream {
    let here = Span::mixed_site();
    let value = match (&key.accepts, setting) {
        (_, Setting::Flag(is_on)) => return quote_spanned!(here=> #is_on),
        (Accepts::Choice { of, variants }, Setting::Text(text)) => {
            let variant = variants.iter().find(|(known, _)| known == text).map_or("", |(_, variant)| variant);
            let (of, variant) = (Ident::new(of, here), Ident::new(variant, here));
            let value = quote_spanned!(here=> ::jetstream_handlers::__private::#of::#variant);
            // A handler without the key takes the setting of its broker.
            return if key.name == "manage" { option(Some(value)) } else { value };
        }
        (Accepts::SubjectOrOff, Setting::Text(subject)) => {
            let subject = borrowed(subject);
            quote_spanned!(here=> ::jetstream_handlers::__private::DeadLetter::Subject(#subject))
        }
        (Accepts::Key, Setting::Text(text)) => quote_spanned!(here=> ::jetstream_handlers::__private::Key::from(#text)),
        (_, Setting::Text(text)) => borrowed(text),
        (_, Setting::Header(name)) => quote_spanned!(here=> ::jetstream_handlers::__private::Key::header(#name)),
        (_, Setting::Texts(_)) => unreachable!("only a required key is a list of texts"),
        (_, Setting::Off) => quote_spanned!(here=> ::jetstream_handlers::__private::DeadLetter::Off),
        (_, Setting::Number(number)) => Literal::u64_unsuffixed(*number).into_token_stream(),
        (_, Setting::Factor(factor)) => factor.to_token_stream(),
        (_, Setting::Duration(duration)) => duration_value(*duration),
        (_, Setting::Steps(steps)) => {
            let steps = steps.iter().copied().map(duration_value);
            let steps = borrowed(quote_spanned!(here=> const { &[#(#steps),*] }));
            quote_spanned!(here=> ::jetstream_handlers::__private::Backoff::Steps(#steps))
        }
        (_, Setting::Exponential { initial, factor, max }) => {
            let (initial, max) = (duration_value(*initial), duration_value(*max));
            quote_spanned! {here=>
                ::jetstream_handlers::__private::Backoff::Exponential {
                    initial: #initial,
                    factor: #factor,
                    max: #max,
                }
            }
        }
    };
    option(Some(value))
}

fn borrowed(value: impl ToTokens) -> TokenStream {
    quote_spanned!(Span::mixed_site()=> ::jetstream_handlers::__private::Cow::Borrowed(#value))
}

fn duration_value(duration: Duration) -> TokenStream {
    let millis = u64::try_from(duration.as_millis()).expect("the rules limit durations to a year");
    quote_spanned!(Span::mixed_site()=> ::core::time::Duration::from_millis(#millis))
}

/// Returns the user's tokens as generated code, which lints ignore.
fn as_generated(tokens: TokenStream) -> TokenStream {
    tokens
        .into_iter()
        .map(|mut token| {
            if let TokenTree::Group(group) = &token {
                let mut generated = proc_macro2::Group::new(group.delimiter(), as_generated(group.stream()));
                generated.set_span(group.span());
                token = generated.into();
            }
            token.set_span(generated_at(token.span()));
            token
        })
        .collect()
}
