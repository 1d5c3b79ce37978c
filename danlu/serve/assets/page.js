/* What the page must do in the browser itself: follow the answer, copy text, open links beside the page, and remember
   choices (language and theme in cookies, so that the server's first page is already right; the key and the conversation
   in this tab only: a reload brings it back, the address opened anew begins another). */
(() => {
  const nearBottom = () => window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 120;
  let follow = true;
  window.addEventListener("scroll", () => { follow = nearBottom(); }, { passive: true });
  const toBottom = () => { if (follow) window.scrollTo(0, document.documentElement.scrollHeight); };
  document.addEventListener("DOMContentLoaded", () => {
    new MutationObserver(toBottom).observe(document.body, { childList: true, subtree: true, characterData: true });
  });

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch { /* not a secure context: the old way */
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest(".answer a[href]");
    if (link) {
      event.preventDefault();
      window.open(link.href, "_blank", "noopener,noreferrer");
    }
    const button = event.target.closest(".copy-code");
    if (button) {
      copy(button.closest(".code").querySelector("pre").textContent);
      button.classList.add("done");
      setTimeout(() => button.classList.remove("done"), 1200);
    }
  });

  window.danlu = {
    copy,
    follow: () => { follow = true; toBottom(); },
    remember: (name, value) => { document.cookie = `danlu_${name}=${value};path=/;max-age=31536000;samesite=strict`; },
    setKey: (key) => sessionStorage.setItem("danlu_key", key),
    getKey: () => sessionStorage.getItem("danlu_key") || "",
    keep: (conversation) => {
      try { sessionStorage.setItem("danlu_conversation", conversation); } catch { /* full: a reload brings less */ }
    },
    kept: () => {
      const how = performance.getEntriesByType("navigation")[0]?.type;
      return (how === "reload" || how === "back_forward") && sessionStorage.getItem("danlu_conversation") || "";
    },
  };
})();
