// Conversations and settings, kept in this browser (IndexedDB). Where a window has no storage they live in memory.

const NAME = "stepahead";

export async function openStore() {
  try {
    const database = await openDatabase();
    return new Store(database);
  } catch {
    return new Store(null);
  }
}

function openDatabase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      request.result.createObjectStore("settings");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("blocked by another window"));
  });
}

class Store {
  constructor(database) {
    this.database = database;
    this.onfailure = () => {};
    if (database) database.onversionchange = () => database.close();
  }

  get isLasting() {
    return this.database !== null;
  }

  conversations() {
    return this.ask("conversations", "readonly", (table) => table.getAll(), []);
  }

  conversation(id) {
    return this.ask("conversations", "readonly", (table) => table.get(id), undefined);
  }

  save(conversation) {
    return this.ask("conversations", "readwrite", (table) => table.put(conversation));
  }

  remove(id) {
    return this.ask("conversations", "readwrite", (table) => table.delete(id));
  }

  settings() {
    return this.ask("settings", "readonly", (table) => table.get("settings"), undefined);
  }

  saveSettings(settings) {
    return this.ask("settings", "readwrite", (table) => table.put(settings, "settings"));
  }

  // A full or withdrawn storage must not stop the conversation: it is told once, and the page goes on.
  ask(table, mode, request, fallback) {
    if (!this.database) return Promise.resolve(fallback);
    return new Promise((resolve) => {
      const failed = () => {
        this.onfailure();
        resolve(fallback);
      };
      try {
        const transaction = this.database.transaction(table, mode);
        const asked = request(transaction.objectStore(table));
        transaction.oncomplete = () => resolve(asked.result ?? fallback);
        transaction.onerror = failed;
        transaction.onabort = failed;
      } catch {
        failed();
      }
    });
  }
}
